/* See shim.h. */
#include "shim.h"

#include "spdk/stdinc.h"
#include "spdk/bdev.h"
#include "spdk/blob.h"
#include "spdk/blob_bdev.h"
#include "spdk/cpuset.h"
#include "spdk/env.h"
#include "spdk/event.h"
#include "spdk/log.h"
#include "spdk/thread.h"
#include "spdk/version.h"

const char *
lobos_spdk_version(void)
{
	return SPDK_VERSION_STRING;
}

/* The whole process has one SPDK, as SPDK has it. */
static lobos_spdk_log g_log;

static void
log_line(int level, const char *file, const int line, const char *function, const char *format, va_list arguments)
{
	char text[1024];

	vsnprintf(text, sizeof(text), format, arguments);
	text[strcspn(text, "\n")] = '\0';
	g_log(level, text);
}

int32_t
lobos_spdk_run(const struct lobos_spdk_start *start)
{
	struct spdk_app_opts options;
	struct spdk_pci_addr address;
	int32_t error;

	spdk_app_opts_init(&options, sizeof(options));
	options.name = "lobos";
	options.reactor_mask = start->reactor_mask;
	options.json_data = (void *)start->config;
	options.json_data_size = start->config_bytes;
	options.rpc_addr = start->rpc;
	options.no_huge = start->no_huge;
	options.mem_size = start->memory_mib;
	options.no_pci = start->pci == NULL && !start->any_pci;
	options.disable_signal_handlers = true;
	options.disable_cpumask_locks = true;
	options.enable_coredump = false;
	/* No trace buffer in /dev/shm. */
	options.num_entries = 0;
	options.msg_mempool_size = 8191;
	if (start->pci != NULL) {
		if (spdk_pci_addr_parse(&address, start->pci) != 0) {
			return -EINVAL;
		}
		options.num_pci_addr = 1;
		options.pci_allowed = &address;
	}
	g_log = start->log;
	options.log = log_line;
	error = spdk_app_start(&options, start->ready, start->context);
	spdk_app_fini();
	return error;
}

void
lobos_spdk_stop(void)
{
	spdk_app_stop(0);
}

int32_t
lobos_spdk_send(lobos_spdk_call call, void *context)
{
	return spdk_thread_send_msg(spdk_thread_get_app_thread(), call, context);
}

struct lobos_spdk_reactor {
	struct spdk_thread *thread;
	struct spdk_poller *poller;
	lobos_spdk_poll poll;
	void *context;
};

static int
reactor_poll(void *context)
{
	struct lobos_spdk_reactor *reactor = context;

	return reactor->poll(reactor->context) > 0 ? SPDK_POLLER_BUSY : SPDK_POLLER_IDLE;
}

static void
reactor_begin(void *context)
{
	struct lobos_spdk_reactor *reactor = context;

	reactor->poller = spdk_poller_register(reactor_poll, reactor, 0);
}

struct lobos_spdk_reactor *
lobos_spdk_reactor_start(uint32_t core, lobos_spdk_poll poll, void *context)
{
	struct lobos_spdk_reactor *reactor = calloc(1, sizeof(*reactor));
	struct spdk_cpuset cores;
	char name[32];

	if (reactor == NULL) {
		return NULL;
	}
	reactor->poll = poll;
	reactor->context = context;
	spdk_cpuset_zero(&cores);
	spdk_cpuset_set_cpu(&cores, core, true);
	snprintf(name, sizeof(name), "lobos-reactor-%u", core);
	reactor->thread = spdk_thread_create(name, &cores);
	if (reactor->thread == NULL || spdk_thread_send_msg(reactor->thread, reactor_begin, reactor) != 0) {
		free(reactor);
		return NULL;
	}
	return reactor;
}

int32_t
lobos_spdk_reactor_send(struct lobos_spdk_reactor *reactor, lobos_spdk_call call, void *context)
{
	return spdk_thread_send_msg(reactor->thread, call, context);
}

void
lobos_spdk_reactor_end(struct lobos_spdk_reactor *reactor)
{
	spdk_poller_unregister(&reactor->poller);
	spdk_thread_exit(reactor->thread);
	free(reactor);
}

int32_t
lobos_spdk_ticks(uint64_t *busy, uint64_t *idle)
{
	struct spdk_thread_stats stats;
	int error = spdk_thread_get_stats(&stats);

	if (error == 0) {
		*busy = stats.busy_tsc;
		*idle = stats.idle_tsc;
	}
	return error;
}

/* A device that goes away fails its operations, which is all that has to be known. */
static void
bdev_event(enum spdk_bdev_event_type type, struct spdk_bdev *bdev, void *context)
{
	if (type == SPDK_BDEV_EVENT_REMOVE) {
		SPDK_ERRLOG("the bdev %s was removed\n", spdk_bdev_get_name(bdev));
	}
}

int32_t
lobos_spdk_bdev_open(const char *name, struct spdk_bdev_desc **desc, struct lobos_spdk_bdev *about)
{
	struct spdk_bdev *bdev;
	int error = spdk_bdev_open_ext(name, true, bdev_event, NULL, desc);

	if (error != 0) {
		return error;
	}
	bdev = spdk_bdev_desc_get_bdev(*desc);
	about->blocks = spdk_bdev_get_num_blocks(bdev);
	about->block_bytes = spdk_bdev_get_block_size(bdev);
	about->has_write_cache = spdk_bdev_has_write_cache(bdev);
	about->can_flush = spdk_bdev_io_type_supported(bdev, SPDK_BDEV_IO_TYPE_FLUSH);
	about->can_unmap = spdk_bdev_io_type_supported(bdev, SPDK_BDEV_IO_TYPE_UNMAP);
	snprintf(about->product, sizeof(about->product), "%s", spdk_bdev_get_product_name(bdev));
	return 0;
}

void
lobos_spdk_bdev_close(struct spdk_bdev_desc *desc)
{
	spdk_bdev_close(desc);
}

struct stats_call {
	struct spdk_bdev_io_stat found;
	struct lobos_spdk_stats *stats;
	lobos_spdk_done done;
	void *context;
};

static void
stats_done(struct spdk_bdev *bdev, struct spdk_bdev_io_stat *found, void *context, int error)
{
	struct stats_call *call = context;

	if (error == 0) {
		call->stats->reads = found->num_read_ops;
		call->stats->writes = found->num_write_ops;
		call->stats->bytes_read = found->bytes_read;
		call->stats->bytes_written = found->bytes_written;
	}
	call->done(call->context, 0, error);
	free(call);
}

void
lobos_spdk_bdev_stats(struct spdk_bdev_desc *desc, struct lobos_spdk_stats *stats, lobos_spdk_done done,
		      void *context)
{
	struct stats_call *call = calloc(1, sizeof(*call));

	if (call == NULL) {
		done(context, 0, -ENOMEM);
		return;
	}
	call->stats = stats;
	call->done = done;
	call->context = context;
	spdk_bdev_get_device_stat(spdk_bdev_desc_get_bdev(desc), &call->found, SPDK_BDEV_RESET_STAT_NONE,
				  stats_done, call);
}

/* What an operation's callback of SPDK's needs in order to call `done`. */
struct call {
	lobos_spdk_done done;
	void *context;
};

static struct call *
call_new(lobos_spdk_done done, void *context)
{
	struct call *call = malloc(sizeof(*call));

	if (call == NULL) {
		done(context, 0, -ENOMEM);
		return NULL;
	}
	call->done = done;
	call->context = context;
	return call;
}

static void
call_done(struct call *call, uint64_t value, int error)
{
	call->done(call->context, value, error);
	free(call);
}

static void
plain_done(void *context, int error)
{
	call_done(context, 0, error);
}

static void
store_done(void *context, struct spdk_blob_store *store, int error)
{
	call_done(context, (uint64_t)(uintptr_t)store, error);
}

static void
id_done(void *context, spdk_blob_id id, int error)
{
	call_done(context, id, error);
}

static void
blob_done(void *context, struct spdk_blob *blob, int error)
{
	call_done(context, (uint64_t)(uintptr_t)blob, error);
}

static struct spdk_bs_dev *
store_device(const char *name, const char *type, uint32_t queue_depth, struct spdk_bs_opts *options, int *error)
{
	struct spdk_bs_dev *device = NULL;

	*error = spdk_bdev_create_bs_dev_ext(name, bdev_event, NULL, &device);
	spdk_bs_opts_init(options, sizeof(*options));
	options->max_channel_ops = queue_depth;
	options->clear_method = BS_CLEAR_WITH_NONE;
	snprintf(options->bstype.bstype, sizeof(options->bstype.bstype), "%s", type);
	return device;
}

void
lobos_spdk_store_load(const char *name, const char *type, uint32_t queue_depth, lobos_spdk_done done,
		      void *context)
{
	struct spdk_bs_opts options;
	struct spdk_bs_dev *device;
	struct call *call = call_new(done, context);
	int error;

	if (call == NULL) {
		return;
	}
	device = store_device(name, type, queue_depth, &options, &error);
	if (error != 0) {
		call_done(call, 0, error);
		return;
	}
	spdk_bs_load(device, &options, store_done, call);
}

void
lobos_spdk_store_create(const char *name, const char *type, uint32_t queue_depth, uint32_t cluster_bytes,
			uint32_t metadata_pages, lobos_spdk_done done, void *context)
{
	struct spdk_bs_opts options;
	struct spdk_bs_dev *device;
	struct call *call = call_new(done, context);
	int error;

	if (call == NULL) {
		return;
	}
	device = store_device(name, type, queue_depth, &options, &error);
	if (error != 0) {
		call_done(call, 0, error);
		return;
	}
	options.cluster_sz = cluster_bytes;
	options.num_md_pages = metadata_pages;
	spdk_bs_init(device, &options, store_done, call);
}

void
lobos_spdk_store_unload(struct spdk_blob_store *store, lobos_spdk_done done, void *context)
{
	struct call *call = call_new(done, context);

	if (call != NULL) {
		spdk_bs_unload(store, plain_done, call);
	}
}

void
lobos_spdk_store_describe(struct spdk_blob_store *store, struct lobos_spdk_store *about)
{
	about->cluster_bytes = spdk_bs_get_cluster_size(store);
	about->io_unit_bytes = spdk_bs_get_io_unit_size(store);
	about->clusters = spdk_bs_total_data_cluster_count(store);
	about->free_clusters = spdk_bs_free_cluster_count(store);
}

void
lobos_spdk_store_super(struct spdk_blob_store *store, lobos_spdk_done done, void *context)
{
	struct call *call = call_new(done, context);

	if (call != NULL) {
		spdk_bs_get_super(store, id_done, call);
	}
}

void
lobos_spdk_store_set_super(struct spdk_blob_store *store, uint64_t id, lobos_spdk_done done, void *context)
{
	struct call *call = call_new(done, context);

	if (call != NULL) {
		spdk_bs_set_super(store, id, plain_done, call);
	}
}

void
lobos_spdk_blob_create(struct spdk_blob_store *store, uint64_t clusters, lobos_spdk_done done, void *context)
{
	struct spdk_blob_opts options;
	struct call *call = call_new(done, context);

	if (call == NULL) {
		return;
	}
	spdk_blob_opts_init(&options, sizeof(options));
	options.num_clusters = clusters;
	options.thin_provision = false;
	options.use_extent_table = true;
	options.clear_method = BLOB_CLEAR_WITH_NONE;
	spdk_bs_create_blob_ext(store, &options, id_done, call);
}

void
lobos_spdk_blob_open(struct spdk_blob_store *store, uint64_t id, lobos_spdk_done done, void *context)
{
	struct call *call = call_new(done, context);

	if (call != NULL) {
		spdk_bs_open_blob(store, id, blob_done, call);
	}
}

void
lobos_spdk_blob_close(struct spdk_blob *blob, lobos_spdk_done done, void *context)
{
	struct call *call = call_new(done, context);

	if (call != NULL) {
		spdk_blob_close(blob, plain_done, call);
	}
}

uint64_t
lobos_spdk_blob_clusters(struct spdk_blob *blob)
{
	return spdk_blob_get_num_clusters(blob);
}

struct lobos_spdk_queue {
	struct spdk_bdev_desc *desc;
	struct spdk_blob *blob;
	struct spdk_io_channel *bdev_channel;
	struct spdk_io_channel *blob_channel;
};

struct lobos_spdk_queue *
lobos_spdk_queue_open(struct spdk_bdev_desc *desc, struct spdk_blob_store *store, struct spdk_blob *blob)
{
	struct lobos_spdk_queue *queue = calloc(1, sizeof(*queue));

	if (queue == NULL) {
		return NULL;
	}
	queue->desc = desc;
	queue->blob = blob;
	queue->bdev_channel = spdk_bdev_get_io_channel(desc);
	queue->blob_channel = store == NULL ? NULL : spdk_bs_alloc_io_channel(store);
	if (queue->bdev_channel == NULL || (store != NULL && queue->blob_channel == NULL)) {
		lobos_spdk_queue_close(queue);
		return NULL;
	}
	return queue;
}

void
lobos_spdk_queue_close(struct lobos_spdk_queue *queue)
{
	if (queue->blob_channel != NULL) {
		spdk_bs_free_io_channel(queue->blob_channel);
	}
	if (queue->bdev_channel != NULL) {
		spdk_put_io_channel(queue->bdev_channel);
	}
	free(queue);
}

static void
bdev_done(struct spdk_bdev_io *io, bool is_done, void *context)
{
	spdk_bdev_free_io(io);
	call_done(context, 0, is_done ? 0 : -EIO);
}

static int
submit_to_bdev(struct lobos_spdk_queue *queue, uint32_t operation, void *buffer, uint64_t offset, uint64_t size,
	       struct call *call)
{
	uint64_t blocks = spdk_bdev_get_num_blocks(spdk_bdev_desc_get_bdev(queue->desc));

	if (operation == LOBOS_SPDK_FLUSH) {
		return spdk_bdev_flush_blocks(queue->desc, queue->bdev_channel, 0, blocks, bdev_done, call);
	}
	return spdk_bdev_read_blocks(queue->desc, queue->bdev_channel, buffer, offset, size, bdev_done, call);
}

int32_t
lobos_spdk_submit(struct lobos_spdk_queue *queue, uint32_t operation, void *buffer, uint64_t offset,
		  uint64_t size, lobos_spdk_done done, void *context)
{
	struct call *call = malloc(sizeof(*call));
	struct spdk_io_channel *channel = queue->blob_channel;
	int error;

	if (call == NULL) {
		return -ENOMEM;
	}
	call->done = done;
	call->context = context;
	switch (operation) {
	case LOBOS_SPDK_READ:
		spdk_blob_io_read(queue->blob, channel, buffer, offset, size, plain_done, call);
		return 0;
	case LOBOS_SPDK_WRITE:
		spdk_blob_io_write(queue->blob, channel, buffer, offset, size, plain_done, call);
		return 0;
	case LOBOS_SPDK_ZERO:
		spdk_blob_io_write_zeroes(queue->blob, channel, offset, size, plain_done, call);
		return 0;
	case LOBOS_SPDK_UNMAP:
		spdk_blob_io_unmap(queue->blob, channel, offset, size, plain_done, call);
		return 0;
	case LOBOS_SPDK_FLUSH:
	case LOBOS_SPDK_READ_BDEV:
		error = submit_to_bdev(queue, operation, buffer, offset, size, call);
		break;
	default:
		error = -EINVAL;
	}
	if (error != 0) {
		free(call);
	}
	return error;
}

void *
lobos_spdk_memory(size_t bytes)
{
	return spdk_dma_malloc(bytes, 4096, NULL);
}

void
lobos_spdk_memory_free(void *memory)
{
	spdk_dma_free(memory);
}
