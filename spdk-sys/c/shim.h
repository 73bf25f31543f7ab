/* What Lobos calls of SPDK, in types that stay the same when SPDK's structures change.
 *
 * No policy lives here: each function does one thing of SPDK's and says how it went. Errors are
 * negative errno values. "On the app thread" and "on a reactor" name the SPDK thread that a
 * function must be called on; the others may be called on any thread.
 *
 * src/lib.rs declares the same once more for Rust; tests/header.rs holds the two together.
 */
#ifndef LOBOS_SPDK_SHIM_H
#define LOBOS_SPDK_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct spdk_bdev_desc;
struct spdk_blob;
struct spdk_blob_store;

struct lobos_spdk_reactor;
struct lobos_spdk_queue;

/* A message to a thread. */
typedef void (*lobos_spdk_call)(void *context);
/* The end of an operation: its value, if it has one, and 0 or an error. */
typedef void (*lobos_spdk_done)(void *context, uint64_t value, int32_t error);
/* One turn of a reactor: more than 0 if there was something to do. */
typedef int32_t (*lobos_spdk_poll)(void *context);
/* One line of SPDK's log; level 0 is an error, 1 a warning, 2 a notice, more is less. */
typedef void (*lobos_spdk_log)(int32_t level, const char *text);

struct lobos_spdk_start {
	/* The cores of the reactors, such as "0x1". */
	const char *reactor_mask;
	/* SPDK's configuration as JSON. */
	const char *config;
	size_t config_bytes;
	/* The Unix socket of SPDK's own control service; NULL: there is none. */
	const char *rpc;
	/* The one PCI device that may be touched, as its address; NULL: none. */
	const char *pci;
	/* All PCI devices may be touched that are bound for it. */
	bool any_pci;
	/* Ordinary memory instead of huge pages. */
	bool no_huge;
	int32_t memory_mib;
	lobos_spdk_log log;
	/* Called on the app thread once everything runs. */
	lobos_spdk_call ready;
	void *context;
};

struct lobos_spdk_bdev {
	uint64_t blocks;
	uint32_t block_bytes;
	/* It claims to lose what it wrote when power is lost. */
	bool has_write_cache;
	bool can_flush;
	bool can_unmap;
	char product[64];
};

struct lobos_spdk_store {
	uint64_t cluster_bytes;
	uint64_t io_unit_bytes;
	uint64_t clusters;
	uint64_t free_clusters;
};

struct lobos_spdk_stats {
	uint64_t reads;
	uint64_t writes;
	uint64_t bytes_read;
	uint64_t bytes_written;
};

enum lobos_spdk_operation {
	LOBOS_SPDK_READ = 0,
	LOBOS_SPDK_WRITE = 1,
	LOBOS_SPDK_ZERO = 2,
	LOBOS_SPDK_UNMAP = 3,
	/* Of the whole bdev; has no buffer, offset and size. */
	LOBOS_SPDK_FLUSH = 4,
	/* Of the bdev below the blobstore, in its blocks. */
	LOBOS_SPDK_READ_BDEV = 5,
};

/* SPDK's version as it was compiled, such as "SPDK v26.01". */
const char *lobos_spdk_version(void);
/* Runs SPDK on this thread until lobos_spdk_stop. Once in a process. */
int32_t lobos_spdk_run(const struct lobos_spdk_start *start);
/* Ends lobos_spdk_run. On the app thread. */
void lobos_spdk_stop(void);
int32_t lobos_spdk_send(lobos_spdk_call call, void *context);

/* A thread of SPDK's on one of the cores, which calls `poll` for ever. On the app thread. */
struct lobos_spdk_reactor *lobos_spdk_reactor_start(uint32_t core, lobos_spdk_poll poll, void *context);
int32_t lobos_spdk_reactor_send(struct lobos_spdk_reactor *reactor, lobos_spdk_call call, void *context);
/* The last call for it: its poller ends, and so does it. On that reactor. */
void lobos_spdk_reactor_end(struct lobos_spdk_reactor *reactor);
/* Ticks that this thread was busy and idle. On a reactor. */
int32_t lobos_spdk_ticks(uint64_t *busy, uint64_t *idle);

/* All of these on the app thread. */
int32_t lobos_spdk_bdev_open(const char *name, struct spdk_bdev_desc **desc, struct lobos_spdk_bdev *about);
void lobos_spdk_bdev_close(struct spdk_bdev_desc *desc);
void lobos_spdk_bdev_stats(struct spdk_bdev_desc *desc, struct lobos_spdk_stats *stats, lobos_spdk_done done,
			   void *context);
/* Value: the blobstore. -EILSEQ: there is none; -ENXIO: it is of another type. */
void lobos_spdk_store_load(const char *name, const char *type, uint32_t queue_depth, lobos_spdk_done done,
			   void *context);
void lobos_spdk_store_create(const char *name, const char *type, uint32_t queue_depth, uint32_t cluster_bytes,
			     uint32_t metadata_pages, lobos_spdk_done done, void *context);
void lobos_spdk_store_unload(struct spdk_blob_store *store, lobos_spdk_done done, void *context);
void lobos_spdk_store_describe(struct spdk_blob_store *store, struct lobos_spdk_store *about);
/* The super blob's id is how a blobstore says which blob is meant. -ENOENT: it names none. */
void lobos_spdk_store_super(struct spdk_blob_store *store, lobos_spdk_done done, void *context);
void lobos_spdk_store_set_super(struct spdk_blob_store *store, uint64_t id, lobos_spdk_done done,
				void *context);
/* Value: the id of a thick blob. */
void lobos_spdk_blob_create(struct spdk_blob_store *store, uint64_t clusters, lobos_spdk_done done,
			    void *context);
/* Value: the blob. */
void lobos_spdk_blob_open(struct spdk_blob_store *store, uint64_t id, lobos_spdk_done done, void *context);
void lobos_spdk_blob_close(struct spdk_blob *blob, lobos_spdk_done done, void *context);
uint64_t lobos_spdk_blob_clusters(struct spdk_blob *blob);

/* A reactor's own way to a bdev and, unless they are NULL, to a blob of its blobstore. On that
 * reactor, as all that is done with it. NULL: no memory. */
struct lobos_spdk_queue *lobos_spdk_queue_open(struct spdk_bdev_desc *desc, struct spdk_blob_store *store,
					       struct spdk_blob *blob);
void lobos_spdk_queue_close(struct lobos_spdk_queue *queue);
/* Offset and size in io units of the blobstore. 0: `done` is called, perhaps before this returns;
 * -ENOMEM: try again later. The buffer belongs to SPDK until then. */
int32_t lobos_spdk_submit(struct lobos_spdk_queue *queue, uint32_t operation, void *buffer, uint64_t offset,
			  uint64_t size, lobos_spdk_done done, void *context);

/* Memory that devices reach, aligned to 4 KiB, of unknown content; NULL: there is no more. */
void *lobos_spdk_memory(size_t bytes);
void lobos_spdk_memory_free(void *memory);

#endif
