/* segment.c - makes a Vnic's segment: a sealed memfd with three empty rings. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "layer8/atomic.h"
#include "layer8/core.h"
#include "port.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008u
#endif

int layer8_layout_version(void) { return (int)LAYER8_LAYOUT_VERSION; }

/* Not by mapping it: nothing else is known of the file yet, but that reading a sealed one waits for nobody. */
int layer8_segment_layout(int fd) {
    struct {
        uint64_t magic;
        uint32_t version;
    } head = {0};
    const ssize_t wanted = offsetof(struct layer8_segment_header, header_bytes);
    if (fcntl(fd, F_GET_SEALS) <= 0 || pread(fd, &head, (size_t)wanted, 0) != wanted || head.magic != LAYER8_MAGIC ||
        head.version > INT32_MAX) {
        return 0;
    }
    return (int)head.version;
}

uint64_t layer8_segment_bytes(uint64_t ring_bytes) { return LAYER8_SEGMENT_BYTES(ring_bytes); }

static int make_memfd(void) {
    const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    int fd = memfd_create("layer8", flags | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) { /* a kernel before 6.3 */
        fd = memfd_create("layer8", flags);
    }
    return fd;
}

static int allocate(int fd, uint64_t bytes) {
    int result;
    if (ftruncate(fd, (off_t)bytes) != 0) {
        return -errno;
    }
    do { /* now, so that no page is missing later, when it would be a SIGBUS */
        result = fallocate(fd, 0, 0, (off_t)bytes);
    } while (result != 0 && errno == EINTR);
    if (result != 0) {
        return -errno;
    }
    return fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0 ? 0 : -errno;
}

void layer8_segment_fill(struct layer8_segment_header *header, uint64_t ring_bytes, const uint8_t *uuid) {
    header->magic = LAYER8_MAGIC;
    header->version = LAYER8_LAYOUT_VERSION;
    header->header_bytes = LAYER8_OFFSET_RINGS;
    header->segment_bytes = LAYER8_SEGMENT_BYTES(ring_bytes);
    header->transmit_offset = LAYER8_OFFSET_RINGS;
    header->transmit_capacity = ring_bytes / 2;
    header->receive_offset = header->transmit_offset + header->transmit_capacity;
    header->receive_capacity = ring_bytes;
    header->hold_offset = header->receive_offset + header->receive_capacity;
    header->hold_capacity = ring_bytes;
    header->slots = LAYER8_SLOTS;
    header->topics = LAYER8_TOPICS;
    memcpy(header->uuid, uuid, sizeof header->uuid);
    layer8_store_release(&header->ready, 1u);
}

int layer8_segment_create(uint64_t ring_bytes, const uint8_t *uuid) {
    if (ring_bytes < LAYER8_RING_MIN || ring_bytes > LAYER8_RING_MAX || (ring_bytes & (ring_bytes - 1)) != 0) {
        return -EINVAL;
    }
    const uint64_t bytes = LAYER8_SEGMENT_BYTES(ring_bytes);
    int fd = make_memfd();
    if (fd < 0) {
        return -errno;
    }
    int status = allocate(fd, bytes);
    struct layer8_segment_header *header = MAP_FAILED;
    if (status == 0) {
        header = mmap(NULL, LAYER8_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        status = header == MAP_FAILED ? -errno : 0;
    }
    if (status != 0) {
        (void)close(fd);
        return status;
    }
    layer8_segment_fill(header, ring_bytes, uuid);
    (void)munmap(header, LAYER8_PAGE);
    return fd;
}
