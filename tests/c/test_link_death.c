/* test_link_death.c - a Vnet with a link dies at any moment, and the next one adopts its Vnics; the other end goes on.
 *
 *   test_link_death [seed [deaths]]
 *
 * What was on its way over the link and not answered goes again, from whichever end; what the dead Vnet kept of the link in
 * its memory is gone. Some messages are larger than what may be on its way at a time. The book is that of test_link_cut. */
#include "link_book.h"

/* The Vnics' libraries: what has come is read, calls and answers are given up. */
static void lose(int end) {
    for (uint32_t n = 0; n < NODES; n++) {
        struct node *node = &nodes[end][n];
        take(end, n);
        (void)layer8_port_forget_begun(node->vnic.port, NULL);
        if (node->replies != 0 && node->reply[0].fragment != 0) {
            layer8_push_abort(node->vnic.port, &node->reply[0]);
        }
        node->replies = 0;
        if (node->pushing && node->large.kind == LAYER8_REQUEST) {
            layer8_push_abort(node->vnic.port, &node->large);
            free(node->bytes);
            node->pushing = false;
        }
        node->failures += node->outstanding;
        node->outstanding = 0;
    }
}

static void link_up(struct side *side, bool another_epoch) {
    CHECK(world_command(&side->world, LAYER8_COMMAND_LINK_UP, 0, side->link, another_epoch, 0, side->queues) == LAYER8_OK);
}

/* A link to the other end, whose Vnet subscribes here to its topic. */
static void add_link(struct side *side, int end) {
    uint8_t uuid[16];
    int64_t link = world_command(&side->world, LAYER8_COMMAND_ADD_LINK, 0, 0, 0, 0, NULL);
    CHECK(link >= 0);
    side->link = (uint32_t)link;
    memset(uuid, 0xf0 + (end == 0), sizeof uuid);
    side->adjacent = side_add_proxy(side, uuid);
    CHECK(world_command(&side->world, LAYER8_COMMAND_SUBSCRIBE, side->adjacent, TOPIC + (end == 1), TOPIC + (end == 1), 0,
                        NULL) == LAYER8_OK);
}

static void adopt(int end) {
    struct side *side = end == 0 ? &pair->a : &pair->b;
    struct world old = side->world;
    world_start_frozen(&side->world, 1);
    side->world.first_uuid = old.first_uuid;
    side->world.keeps_segments = true;
    side->world.owner = side;
    side->world.resolve = side_resolve;
    memcpy(side->world.opened, old.opened, sizeof old.opened);
    side->world.opened_count = old.opened_count;
    memcpy(side->world.generations, old.generations, sizeof old.generations);
    memset(side->ids, 0, sizeof side->ids);
    for (uint32_t n = 0; n < NODES; n++) {
        int status;
        struct vnic *vnic = &nodes[end][n].vnic;
        layer8_switch_port *port = layer8_switch_port_new(vnic->segment, vnic->uuid, 2, 1, &status);
        CHECK(port != NULL);
        vnic->id = n | (uint32_t)++side->world.generations[n] << 16;
        side->world.ports[n] = port;
        CHECK(layer8_port_set_doorbell(vnic->port, layer8_switch_port_doorbell(port)) == LAYER8_OK);
        CHECK(world_command(&side->world, LAYER8_COMMAND_ADD_PORT, vnic->id, 7, 1, 0, port) == LAYER8_OK);
        CHECK(vnic_command(vnic, LAYER8_COMMAND_SUBSCRIBE, TOPIC + (end == 0), 1, 1) == LAYER8_OK);
    }
    add_link(side, end);
    for (uint32_t n = 0; n < NODES; n++) {
        struct node *node = &nodes[end][n];
        for (uint32_t m = 0; m < NODES; m++) {
            CHECK(vnic_command(&node->vnic, LAYER8_COMMAND_GRANT, node->handle[m], LAYER8_TARGET_PORT,
                               side_add_proxy(side, nodes[1 - end][m].vnic.uuid)) == LAYER8_OK);
        }
        CHECK(vnic_command(&node->vnic, LAYER8_COMMAND_GRANT, node->topic, LAYER8_TARGET_TOPIC, TOPIC + (end == 1)) ==
              LAYER8_OK);
        static uint8_t told[(LAYER8_GOING_MAX + LAYER8_HALVES_MAX) * LAYER8_HALF_BYTES];
        uint32_t own = layer8_port_going(node->vnic.port, told, LAYER8_GOING_MAX);
        uint32_t halves = layer8_port_halves(node->vnic.port, told + own * LAYER8_HALF_BYTES, LAYER8_HALVES_MAX);
        CHECK(world_command(node->vnic.world, LAYER8_COMMAND_RESUME, node->vnic.id, own, halves, 0, told) == LAYER8_OK);
    }
}

/* It has waited long enough for the dead one: whoever lives there is gone. What it knows of the next one is new. */
static void give_up_link(int end) {
    struct side *side = end == 0 ? &pair->a : &pair->b;
    uint32_t before = side->world.gone, proxies = 0;
    for (uint32_t n = FIRST_PROXY; n < WORLD_PORTS; n++) {
        proxies += side->world.ports[n] != NULL;
    }
    CHECK(world_command(&side->world, LAYER8_COMMAND_REMOVE_LINK, 0, side->link, LAYER8_REASON_UNREACHABLE, 0, NULL) ==
          LAYER8_OK);
    (void)world_wait(&side->world, 0, before + proxies);
    memset(side->ids, 0, sizeof side->ids);
    add_link(side, end);
}

static void die(int end, bool is_given_up) {
    struct side *dead = end == 0 ? &pair->a : &pair->b, *other = dead->other;
    CHECK(world_command(&dead->world, LAYER8_COMMAND_STOP, 0, 0, 0, 0, NULL) == LAYER8_OK);
    CHECK(pthread_join(dead->world.thread, NULL) == 0);
    pair->stop = true;
    CHECK(pthread_join(pair->pump, NULL) == 0);
    CHECK(world_command(&other->world, LAYER8_COMMAND_LINK_DOWN, 0, other->link, 0, 0, NULL) == LAYER8_OK);
    layer8_switch_free(dead->world.sw);
    layer8_link_free(dead->queues);
    layer8_link_free(other->queues);
    lose(end);
    if (is_given_up) {
        give_up_link(1 - end);
    }
    for (uint32_t n = is_given_up ? 0 : any(60); n != 0; n--) { /* the other end goes on; and what is accepted meanwhile */
        say(1 - end, any(NODES));
    }
    adopt(end);
    for (int n = 0; n < 2; n++) {
        struct side *side = n == 0 ? &pair->a : &pair->b;
        side->queues = layer8_link_new(0);
        CHECK(side->queues != NULL);
        side->piped = side->moved = side->cut_at = 0;
    }
    pair->stop = false;
    bool early = any(2) == 0;
    if (early) {
        link_up(dead, true);
    }
    CHECK(world_command(&dead->world, LAYER8_COMMAND_START, 0, 0, 0, 0, NULL) == LAYER8_OK);
    if (!early) {
        link_up(dead, true);
    }
    link_up(other, true); /* it sends when the next Vnet has said Open */
    CHECK(pthread_create(&pair->pump, NULL, pair_main, pair) == 0);
}

static void run(uint64_t first, uint32_t deaths) {
    open_book(first, true, true);
    say_huge = give_up = true;
    uint32_t dead = 0, steps = 5;
    int64_t quiet = 0;
    while (!finished() || dead < deaths) {
        CHECK(pair->a.broken == 0 && pair->b.broken == 0);
        if (dead < deaths && steps-- == 0) {
            die((int)any(2), false);
            dead++;
            steps = any(any(2) == 0 ? 4 : 60);
        }
        for (int n = 0; dead < deaths && n < 20; n++) {
            say((int)any(2), any(NODES));
        }
        read_all(8);
        pair_events(pair);
        CHECK(pair->a.world.violations + pair->b.world.violations + pair->a.world.link_violations + pair->b.world.link_violations == 0);
        if (dead >= deaths) {
            (void)poll(NULL, 0, 1);
            CHECK(++quiet < 30000);
        }
    }
    close_book("deaths", dead);
    for (int end = 0; end < 2; end++) {
        for (uint32_t n = 0; n < NODES; n++) {
            (void)close(nodes[end][n].vnic.segment);
        }
    }
}

/* One end sends, and dies again and again; the other gives it up each time, and takes what it then says once. */
static void who_was_given_up_comes_back_and_doubles_nothing(void) {
    struct node *node = &nodes[0][0];
    uint8_t bytes[600];
    open_book(7, true, true);
    for (uint32_t dead = 0; dead < 10; dead++) {
        for (uint32_t n = 0; n < 600; n++) {
            struct head head = {.kind = LAYER8_UNICAST, .from = 0, .serial = node->sent[dead % NODES] + 1};
            fill(bytes, sizeof bytes, &head);
            if (layer8_send(node->vnic.port, node->handle[dead % NODES], bytes, sizeof bytes) > 0) {
                node->sent[dead % NODES]++;
            }
            if (n % 50 == 0) {
                pair_events(pair);
                read_all(2);
            }
        }
        die(0, true);
    }
    for (int tries = 0; !finished(); tries++) {
        CHECK(tries < 20000);
        pair_events(pair);
        read_all(8);
        (void)poll(NULL, 0, 1);
    }
    close_book("deaths, given up each time", 10);
    for (int end = 0; end < 2; end++) {
        for (uint32_t n = 0; n < NODES; n++) {
            (void)close(nodes[end][n].vnic.segment);
        }
    }
}

int main(int count, char **arguments) {
    uint64_t first = count > 1 ? strtoull(arguments[1], NULL, 10) : 1;
    uint32_t deaths = count > 2 ? (uint32_t)strtoul(arguments[2], NULL, 10) : 20;
    (void)alarm(280);
    run(first, deaths);
    run(first + 1, deaths);
    who_was_given_up_comes_back_and_doubles_nothing();
    return 0;
}
