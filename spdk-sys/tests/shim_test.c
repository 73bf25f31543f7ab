/* Every function of the shim, under gcc's AddressSanitizer: a store on a malloc bdev is made, used,
 * unloaded, loaded and used again. Exit status 0: all went as it must. */
#include "../c/shim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE (64 * 1024)

static const char config[] =
	"{\"subsystems\":[{\"subsystem\":\"iobuf\",\"config\":[{\"method\":\"iobuf_set_options\","
	"\"params\":{\"small_pool_count\":1024,\"large_pool_count\":64}}]},"
	"{\"subsystem\":\"bdev\",\"config\":[{\"method\":\"bdev_set_options\",\"params\":{"
	"\"bdev_io_pool_size\":8191,\"bdev_io_cache_size\":256,\"bdev_auto_examine\":false}},"
	"{\"method\":\"bdev_malloc_create\",\"params\":{\"name\":\"M\",\"num_blocks\":8192,\"block_size\":4096}}]}]}";

static struct spdk_bdev_desc *desc;
static struct lobos_spdk_bdev about;
static struct lobos_spdk_stats stats;
static struct lobos_spdk_store described;
static struct spdk_blob_store *store;
static struct spdk_blob *blob;
static struct lobos_spdk_queue *queue;
static struct lobos_spdk_reactor *reactor;
static unsigned char *buffer;
static uint64_t id;
static int step, polls, failed;

static void next(void *context, uint64_t value, int32_t error);

#define MUST(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "step %d: not so: %s\n", step, #condition); \
			failed = 1; \
			lobos_spdk_stop(); \
			return; \
		} \
	} while (0)

static int32_t
poll(void *context)
{
	polls++;
	return 0;
}

static void
on_app(void *context)
{
	next(NULL, 0, 0);
}

static void
on_reactor(void *context)
{
	uint64_t busy = 0, idle = 0;

	if (polls == 0) {
		lobos_spdk_reactor_send(reactor, on_reactor, NULL);
		return;
	}
	failed |= lobos_spdk_ticks(&busy, &idle) != 0 || busy + idle == 0;
	lobos_spdk_reactor_end(reactor);
	lobos_spdk_send(on_app, NULL);
}

static void
submit(uint32_t operation, uint64_t offset, uint64_t size)
{
	int32_t error = lobos_spdk_submit(queue, operation, buffer, offset, size, next, NULL);

	if (error != 0) {
		next(NULL, 0, error);
	}
}

static void
next(void *context, uint64_t value, int32_t error)
{
	size_t units = SIZE / 4096;

	switch (step++) {
	case 0:
		MUST(strstr(lobos_spdk_version(), "v26.01") != NULL);
		MUST(lobos_spdk_bdev_open("no such", &desc, &about) == -ENODEV);
		MUST(lobos_spdk_bdev_open("M", &desc, &about) == 0);
		MUST(about.blocks == 8192 && about.block_bytes == 4096 && about.can_flush);
		MUST(strstr(about.product, "Malloc") != NULL);
		lobos_spdk_store_load("M", "LOBOS", 64, next, NULL);
		return;
	case 1:
		MUST(error == -EILSEQ);
		lobos_spdk_store_create("M", "LOBOS", 64, 1 << 20, 64, next, NULL);
		return;
	case 2:
		MUST(error == 0);
		store = (struct spdk_blob_store *)(uintptr_t)value;
		lobos_spdk_store_describe(store, &described);
		MUST(described.cluster_bytes == 1 << 20 && described.io_unit_bytes == 4096);
		MUST(described.free_clusters > 20 && described.clusters >= described.free_clusters);
		lobos_spdk_store_super(store, next, NULL);
		return;
	case 3:
		MUST(error == -ENOENT);
		lobos_spdk_blob_create(store, described.free_clusters, next, NULL);
		return;
	case 4:
		MUST(error == 0);
		id = value;
		lobos_spdk_store_set_super(store, id, next, NULL);
		return;
	case 5:
		MUST(error == 0);
		lobos_spdk_store_unload(store, next, NULL);
		return;
	case 6:
		MUST(error == 0);
		lobos_spdk_store_load("M", "OTHER", 64, next, NULL);
		return;
	case 7:
		MUST(error == -ENXIO);
		lobos_spdk_store_load("M", "LOBOS", 64, next, NULL);
		return;
	case 8:
		MUST(error == 0);
		store = (struct spdk_blob_store *)(uintptr_t)value;
		lobos_spdk_store_super(store, next, NULL);
		return;
	case 9:
		MUST(error == 0 && value == id);
		lobos_spdk_blob_open(store, id, next, NULL);
		return;
	case 10:
		MUST(error == 0);
		blob = (struct spdk_blob *)(uintptr_t)value;
		MUST(lobos_spdk_blob_clusters(blob) == described.free_clusters);
		queue = lobos_spdk_queue_open(desc, store, blob);
		buffer = lobos_spdk_memory(SIZE);
		MUST(queue != NULL && buffer != NULL);
		memset(buffer, 7, SIZE);
		submit(LOBOS_SPDK_WRITE, 8, units);
		return;
	case 11:
		MUST(error == 0);
		memset(buffer, 0, SIZE);
		submit(LOBOS_SPDK_READ, 8, units);
		return;
	case 12:
		MUST(error == 0 && buffer[0] == 7 && buffer[SIZE - 1] == 7);
		submit(LOBOS_SPDK_FLUSH, 0, 0);
		return;
	case 13:
		MUST(error == 0);
		submit(LOBOS_SPDK_ZERO, 8, units);
		return;
	case 14:
		MUST(error == 0);
		submit(LOBOS_SPDK_READ, 8, units);
		return;
	case 15:
		MUST(error == 0 && buffer[0] == 0 && buffer[SIZE - 1] == 0);
		submit(LOBOS_SPDK_UNMAP, 8, units);
		return;
	case 16:
		MUST(error == 0);
		submit(LOBOS_SPDK_READ, 1 << 30, units);
		return;
	case 17:
		MUST(error == -EINVAL);
		submit(LOBOS_SPDK_READ_BDEV, 0, units);
		return;
	case 18:
		MUST(error == 0 && memcmp(buffer, "SPDKBLOB", 8) == 0);
		MUST(lobos_spdk_submit(queue, 99, NULL, 0, 0, next, NULL) == -EINVAL);
		lobos_spdk_bdev_stats(desc, &stats, next, NULL);
		return;
	case 19:
		MUST(error == 0 && stats.reads > 2 && stats.bytes_written >= SIZE);
		lobos_spdk_memory_free(buffer);
		lobos_spdk_queue_close(queue);
		lobos_spdk_blob_close(blob, next, NULL);
		return;
	case 20:
		MUST(error == 0);
		lobos_spdk_store_unload(store, next, NULL);
		return;
	case 21:
		MUST(error == 0);
		lobos_spdk_bdev_close(desc);
		reactor = lobos_spdk_reactor_start(0, poll, NULL);
		MUST(reactor != NULL && lobos_spdk_reactor_send(reactor, on_reactor, NULL) == 0);
		return;
	default:
		lobos_spdk_stop();
	}
}

static void
begin(void *context)
{
	next(NULL, 0, 0);
}

static void
log_line(int32_t level, const char *text)
{
	fprintf(stderr, "%d: %s\n", level, text);
}

int
main(void)
{
	struct lobos_spdk_start start = {
		.reactor_mask = "0x1",
		.config = config,
		.config_bytes = sizeof(config) - 1,
		.no_huge = true,
		.memory_mib = 160,
		.log = log_line,
		.ready = begin,
	};
	int32_t error = lobos_spdk_run(&start);

	printf("ended with %d after %d steps\n", error, step);
	return error != 0 || failed || step != 23;
}
