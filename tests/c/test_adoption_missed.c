/* test_adoption_missed.c - what a subscriber is told of the publications that it has missed, when a Vnet dies in between. */
#include "adoption_marks.h"

static void miss(struct vnic *publisher, uint32_t handle, uint32_t count) {
    for (uint32_t n = 0; n < count; n++) {
        CHECK(layer8_publish(publisher->port, handle, (const uint8_t *)"miss", 4, 0) > 0);
        wait_moved(publisher);
    }
}

static uint32_t missed_before(struct vnic *subscriber, const char *payload) {
    struct got got = vnic_receive(subscriber);
    CHECK(got.entry.kind == LAYER8_PUBLISH && got.record.topic == NUMBER);
    CHECK(got.entry.length == strlen(payload) && memcmp(got.payload, payload, got.entry.length) == 0);
    CHECK((got.record.missed != 0) == ((got.entry.flags & LAYER8_ENTRY_MISSED) != 0));
    return got.record.missed;
}

static void say(struct vnic *publisher, uint32_t handle, const char *payload) {
    CHECK(layer8_publish(publisher->port, handle, (const uint8_t *)payload, strlen(payload), 0) > 0);
    wait_moved(publisher);
}

#define PUBLISHER 0u
#define SUBSCRIBER 1u
#define FILLER 2u /* sends to the subscriber until it is over half full */

struct missing {
    struct scene scene;
    struct vnic *publisher, *subscriber;
    uint32_t topic, filling; /* their handles */
};

static void begin_missing(struct missing *at) {
    begin(&at->scene);
    take_places(&at->scene, TO_TOPIC, EARLIER);
    at->publisher = &at->scene.vnics[PUBLISHER];
    at->subscriber = &at->scene.vnics[SUBSCRIBER];
    at->topic = vnic_grant(at->publisher, 3, LAYER8_TARGET_TOPIC, TOPIC);
    at->filling = vnic_grant(&at->scene.vnics[FILLER], 3, LAYER8_TARGET_PORT, at->subscriber->id);
}

static void follow(struct missing *at, int renewed) {
    adopt_all(&at->scene);
    take_places(&at->scene, TO_TOPIC, renewed);
    renew(&at->scene, PUBLISHER, at->topic, LAYER8_TARGET_TOPIC, TOPIC);
    renew(&at->scene, FILLER, at->filling, LAYER8_TARGET_PORT, at->subscriber->id);
    resume_all(&at->scene);
    start(&at->scene);
}

static void what_was_missed_under_the_earlier_vnet_is_said_and_counted_on(void) {
    struct missing at;
    begin_missing(&at);
    fill(&at.scene.vnics[FILLER], TO_VNIC, at.filling);
    miss(at.publisher, at.topic, 3);
    die(&at.scene);
    follow(&at, NEXT);
    CHECK(layer8_missed(at.subscriber->port, NUMBER) == 3);
    miss(at.publisher, at.topic, 2); /* it is over half full still */
    CHECK(layer8_missed(at.subscriber->port, NUMBER) == 5);
    die(&at.scene);
    follow(&at, NEXT);
    read_all(at.subscriber);
    say(at.publisher, at.topic, "next");
    CHECK(missed_before(at.subscriber, "next") == 5);
    die(&at.scene);
    follow(&at, NEXT); /* said is said */
    say(at.publisher, at.topic, "third");
    CHECK(missed_before(at.subscriber, "third") == 0);
    CHECK(layer8_missed(at.subscriber->port, NUMBER) == 5);
    CHECK(end_in_time(&at.scene, 0));
}

static void a_subscription_made_anew_has_missed_nothing(void) {
    struct missing at;
    begin_missing(&at);
    fill(&at.scene.vnics[FILLER], TO_VNIC, at.filling);
    miss(at.publisher, at.topic, 3);
    die(&at.scene);
    follow(&at, EARLIER);
    CHECK(layer8_missed(at.subscriber->port, NUMBER) == 0);
    read_all(at.subscriber);
    say(at.publisher, at.topic, "anew");
    CHECK(missed_before(at.subscriber, "anew") == 0);
    die(&at.scene);
    follow(&at, NEXT);
    say(at.publisher, at.topic, "again");
    CHECK(missed_before(at.subscriber, "again") == 0);
    CHECK(end_in_time(&at.scene, 0));
}

/* What goes again is dropped where it was taken before, with all that it says. */
static void a_retry_says_nothing_of_what_was_missed(void) {
    struct missing at;
    begin_missing(&at);
    uint64_t head = layer8_load_seq(&at.publisher->port->control->transmit_head);
    say(at.publisher, at.topic, "taken");
    CHECK(missed_before(at.subscriber, "taken") == 0);
    fill(&at.scene.vnics[FILLER], TO_VNIC, at.filling);
    miss(at.publisher, at.topic, 3);
    die(&at.scene);
    layer8_store_seq(&at.publisher->port->control->transmit_head, head); /* killed before it published that */
    read_all(at.subscriber);
    follow(&at, NEXT);
    for (int n = 0; n < 3; n++) {
        CHECK(missed_before(at.subscriber, "miss") == 0); /* so they come after all */
    }
    CHECK(doubles(at.subscriber) == 1);
    say(at.publisher, at.topic, "next");
    CHECK(missed_before(at.subscriber, "next") == 3);
    CHECK(layer8_missed(at.subscriber->port, NUMBER) == 3);
    CHECK(end_in_time(&at.scene, 0));
}

int main(void) {
    RUN(what_was_missed_under_the_earlier_vnet_is_said_and_counted_on);
    RUN(a_subscription_made_anew_has_missed_nothing);
    RUN(a_retry_says_nothing_of_what_was_missed);
    return 0;
}
