/* test_admit.c - taking a segment in: which files are one, up to the largest. */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "port.h"

static const uint8_t owner[16] = {1};

/* As layer8_segment_create makes one, but its pages are there when they are used: the largest takes no memory. */
static int sparse_segment(uint64_t ring_bytes, uint64_t more) {
    int fd = memfd_create("layer8", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)(LAYER8_SEGMENT_BYTES(ring_bytes) + more)) == 0);
    struct layer8_segment_header *header = mmap(NULL, LAYER8_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(header != MAP_FAILED);
    layer8_segment_fill(header, ring_bytes, owner);
    header->segment_bytes += more;
    (void)munmap(header, LAYER8_PAGE);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
    return fd;
}

static void test_every_size_that_a_vnic_may_ask_for_is_taken_in(void) {
    for (uint64_t ring = LAYER8_RING_MIN; ring <= LAYER8_RING_MAX; ring *= 2) {
        int status = 0;
        int fd = sparse_segment(ring, 0);
        layer8_switch_port *port = layer8_switch_port_new(fd, owner, 1, 0, &status);
        CHECK(port != NULL && status == LAYER8_OK && layer8_switch_port_bytes(port) == LAYER8_SEGMENT_BYTES(ring));
        layer8_switch_port_free(port);
        struct layer8_port *vnic = layer8_port_open(fd, UINT64_C(8) << 20, UINT64_C(32) << 20, &status);
        CHECK(vnic != NULL && status == LAYER8_OK);
        layer8_port_close(vnic);
        layer8_mirror *mirror = layer8_mirror_open(fd, 1, &status);
        CHECK(mirror != NULL && status == LAYER8_OK);
        layer8_mirror_close(mirror);
        (void)close(fd);
    }
}

static void test_a_size_that_no_vnic_can_ask_for_is_refused(void) {
    int status = 0;
    const uint64_t rings[] = {LAYER8_RING_MIN / 2, LAYER8_RING_MAX * 2};
    for (int n = 0; n < 2; n++) {
        int fd = sparse_segment(rings[n], 0);
        CHECK(layer8_switch_port_new(fd, owner, 1, 0, &status) == NULL && status == LAYER8_INVALID);
        CHECK(layer8_mirror_open(fd, 1, &status) == NULL && status == LAYER8_INVALID);
        (void)close(fd);
    }
    int fd = sparse_segment(LAYER8_RING_MIN, LAYER8_PAGE);
    CHECK(layer8_switch_port_new(fd, owner, 1, 0, &status) == NULL && status == LAYER8_INVALID);
    CHECK(layer8_mirror_open(fd, 1, &status) == NULL && status == LAYER8_INVALID);
    (void)close(fd);
}

static void test_a_segment_that_is_not_one_is_refused(void) {
    int status = 0;
    const uint8_t other[16] = {2};
    int fd = layer8_segment_create(LAYER8_RING_MIN, owner);
    CHECK(layer8_switch_port_new(fd, other, 1, 0, &status) == NULL && status == LAYER8_INVALID);
    struct layer8_segment_header *header = mmap(NULL, LAYER8_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(header != MAP_FAILED);
    header->hold_capacity *= 2;
    CHECK(layer8_switch_port_new(fd, owner, 1, 0, &status) == NULL && status == LAYER8_INVALID);
    (void)munmap(header, LAYER8_PAGE);
    (void)close(fd);
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    CHECK(layer8_switch_port_new(pipes[0], owner, 1, 0, &status) == NULL && status == LAYER8_INVALID);
    (void)close(pipes[0]);
    (void)close(pipes[1]);
}

static void test_the_layout_of_a_segment_can_be_told_also_when_it_is_another(void) {
    int status = 0;
    int fd = layer8_segment_create(LAYER8_RING_MIN, owner);
    CHECK(layer8_segment_layout(fd) == layer8_layout_version());
    struct layer8_segment_header *header = mmap(NULL, LAYER8_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(header != MAP_FAILED);
    header->version += 1;
    CHECK(layer8_segment_layout(fd) == layer8_layout_version() + 1);
    CHECK(layer8_switch_port_new(fd, owner, 1, 0, &status) == NULL && status == LAYER8_INVALID);
    CHECK(layer8_port_open(fd, UINT64_C(8) << 20, UINT64_C(32) << 20, &status) == NULL && status == LAYER8_INVALID);
    header->magic += 1;
    CHECK(layer8_segment_layout(fd) == 0);
    (void)munmap(header, LAYER8_PAGE);
    (void)close(fd);
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    CHECK(layer8_segment_layout(pipes[0]) == 0); /* and is not read */
    (void)close(pipes[0]);
    (void)close(pipes[1]);
    fd = memfd_create("short", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0 && layer8_segment_layout(fd) == 0);
    (void)close(fd);
}

int main(void) {
    (void)alarm(280);
    test_every_size_that_a_vnic_may_ask_for_is_taken_in();
    test_a_size_that_no_vnic_can_ask_for_is_refused();
    test_a_segment_that_is_not_one_is_refused();
    test_the_layout_of_a_segment_can_be_told_also_when_it_is_another();
    return 0;
}
