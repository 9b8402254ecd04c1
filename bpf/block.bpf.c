//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * block: requests of block devices, from when they are made to when they are
 * done: whose they are, how long they stood in a queue and in the device, and
 * which one is still in flight.
 *
 * All state lies in one array that the reader maps: reading it costs no system
 * call, and finding a slot no call of a helper. A slot is found by hashing and
 * looking at the next few; nothing is ever locked. Two CPUs that take the same
 * free slot in the same few nanoseconds lose one request, and it is counted.
 *
 * Whose a request is: the task that made it, but
 *
 *   data written back from memory   who made its inode dirty, whoever has it
 *                                   written: a kworker, a sync of everything
 *   a kworker of a loop device      who uses that device most, of late
 */
#include "kernel.h"

#define DEVICES 64
#define ISSUERS 1024
#define FLIGHTS 4096
#define OWNERS 4096
#define TRIES 8
#define BUCKETS 128 /* of a quarter of a power of two each, from 1 us to 67 s; the last are spare */

/* Who used a device most needs no more than so many bytes of another to be
 * forgotten for him. */
#define USER_MOST (4 << 20)

/* An issuer that was quiet for so long gives its slot up. */
#define FORGET_NS 30000000000ULL

enum { DIRECT = 0, WRITEBACK = 1, LOOP = 2, KERNEL = 3 };

/* include/linux/blk_types.h: the low byte of cmd_flags is the operation; the
 * flags above it have moved between versions and are told by the loader. */
enum { REQ_OP_READ = 0, REQ_OP_WRITE = 1, REQ_OP_FLUSH = 2, REQ_OP_DISCARD = 3, REQ_OP_SECURE_ERASE = 5 };

struct request_queue {
	struct gendisk *disk; /* since Linux 5.15 */
} READS;

struct block_device {
	__u32 bd_dev;
} READS;

struct gendisk {
	int major;
	int first_minor;
	char disk_name[32];
} READS;

struct page {
	unsigned long compound_head;
	struct address_space *mapping;
} READS;

struct address_space {
	struct inode *host;
} READS;

struct bio_vec {
	struct page *bv_page;
} READS;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
} READS;

struct blkcg {
	struct cgroup_subsys_state css;
} READS;

struct blkcg_gq {
	struct blkcg *blkcg;
} READS;

struct bvec_iter {
	unsigned int bi_size;
	unsigned int bi_idx;
} READS;

struct bio {
	struct bio_vec *bi_io_vec;
	struct bvec_iter bi_iter;
	unsigned int bi_opf;
	struct blkcg_gq *bi_blkg;
} READS;

struct request {
	struct request_queue *q;
	unsigned int cmd_flags;
	unsigned int __data_len;
	struct bio *bio;
	__u64 start_time_ns;
} READS;

struct request___before_5_17 {
	struct gendisk *rq_disk;
} READS;

struct device {
	__u32 dev; /* major << 20 | minor; 0: free */
	__u32 user; /* issuer of most of the latest bytes */
	__u64 votes; /* by how many bytes it is ahead of the others */
	char name[32];
	__u64 issued, done, errors;
	__u64 read_bytes, write_bytes;
	__u64 flushes, discards;
	__u64 queue_ns, device_ns, flush_ns;
	__u64 buckets[BUCKETS]; /* reads and writes, by their time in the device */
};

struct issuer {
	__u32 dev, tgid;
	__u64 last_ns;
	__u64 cgroup;
	__u64 reads, writes;
	__u64 read_bytes, write_bytes;
	__u64 flushes, discards, errors;
	__u64 queue_ns, device_ns, flush_ns;
	char comm[TASK_COMM_LEN];
	__u32 via;
	__u32 spare;
	__u64 since_ns; /* from when on it is counted */
};

struct flight {
	__u64 rq;    /* 0: free */
	__u64 alloc; /* rq->start_time_ns: tells one use of a request from the next */
	__u64 made, issued;
	__u32 device, issuer; /* indices */
	__u32 tgid;
	__u32 bytes;
	__u32 flags;
	__u32 op;
};

struct block {
	struct device devices[DEVICES];
	struct issuer issuers[ISSUERS];
	struct flight flights[FLIGHTS];
	__u64 lost; /* requests without a slot */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct block);
} blocks SEC(".maps");

/* Who made an inode dirty that was clean. */
struct owner {
	__u32 tgid;
	__u32 loop; /* the device whose kworker it was; DEVICES: none */
	char comm[TASK_COMM_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, OWNERS);
	__type(key, __u64);
	__type(value, struct owner);
} owners SEC(".maps");

/* Constants of the running kernel. */
volatile const __u32 queue_first = 0;  /* before 5.11 the queue stands before the request */
volatile const __u32 has_io_start = 0; /* since 6.5 a tracepoint tells of each request as it is made */
volatile const __u32 preflush = 0, fua = 0;

static __always_inline struct block *state(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&blocks, &zero);
}

static __always_inline struct gendisk *disk_of(struct request *rq)
{
	if (bpf_core_field_exists(rq->q->disk))
		return rq->q->disk;
	return BPF_CORE_READ((struct request___before_5_17 *)rq, rq_disk);
}

static __always_inline __u32 device_of(struct block *b, __u32 dev)
{
	for (int i = 0; i < TRIES; i++) {
		__u32 at = within(hash(dev) + i, DEVICES);
		if (b->devices[at].dev == dev)
			return at;
	}
	return DEVICES;
}

static __always_inline __u32 device_for(struct block *b, struct gendisk *disk)
{
	__u32 dev = (__u32)disk->major << 20 | (__u32)disk->first_minor;
	for (int i = 0; i < TRIES; i++) {
		__u32 at = within(hash(dev) + i, DEVICES);
		struct device *d = &b->devices[at];
		if (d->dev == dev)
			return at;
		if (d->dev == 0) {
			bpf_probe_read_kernel_str(d->name, sizeof(d->name), disk->disk_name);
			d->dev = dev;
			return at;
		}
	}
	return DEVICES;
}

static __always_inline __u32 issuer_for(struct block *b, __u32 dev, __u32 tgid, const char *comm, __u32 via, __u64 now)
{
	__u32 oldest = 0;
	__u64 age = 0;
	for (int i = 0; i < TRIES; i++) {
		__u32 at = within(hash((__u64)dev << 32 | tgid) + i, ISSUERS);
		struct issuer *s = &b->issuers[at];
		if (s->dev == dev && s->tgid == tgid && s->last_ns) {
			return at;
		}
		__u64 quiet = s->last_ns ? now - s->last_ns : ~0ULL;
		if (quiet > age) {
			age = quiet;
			oldest = at;
		}
	}
	if (age < FORGET_NS)
		return ISSUERS;
	struct issuer *s = &b->issuers[within(oldest, ISSUERS)];
	__builtin_memset(s, 0, sizeof(*s));
	s->dev = dev;
	s->tgid = tgid;
	s->via = via;
	s->last_ns = now;
	s->since_ns = now;
	__builtin_memcpy(s->comm, comm, TASK_COMM_LEN);
	return oldest;
}

/* desc_of reads what a kworker is at work on: "loop3", "flush-254:0". */
static __always_inline bool desc_of(struct task_struct *p, char desc[32])
{
	struct task_struct___kthread *t = (void *)p;
	struct kthread *k;
	struct worker *w;
	if (!(p->flags & PF_WQ_WORKER))
		return false;
	if (bpf_core_field_exists(t->worker_private))
		k = BPF_CORE_READ(t, worker_private);
	else
		k = BPF_CORE_READ(t, set_child_tid);
	if (!k)
		return false;
	w = BPF_CORE_READ(k, data);
	return w && bpf_probe_read_kernel_str(desc, 32, w->desc) > 1;
}

/* loop_of is the loop device that a kworker works for. */
static __always_inline __u32 loop_of(struct block *b, const char desc[32])
{
	__u32 n = 0;
	if (desc[0] != 'l' || desc[1] != 'o' || desc[2] != 'o' || desc[3] != 'p')
		return DEVICES;
	for (int i = 4; i < 9; i++) {
		if (desc[i] < '0' || desc[i] > '9')
			break;
		n = n * 10 + (desc[i] - '0');
	}
	return device_of(b, 7 << 20 | n);
}

/* user_of is who uses a device most. */
static __always_inline struct issuer *user_of(struct block *b, __u32 device)
{
	__u32 at;
	if (device >= DEVICES)
		return NULL;
	at = b->devices[within(device, DEVICES)].user;
	struct issuer *s = &b->issuers[within(at, ISSUERS)];
	return s->last_ns ? s : NULL;
}

/* inode_of is the file that a bio's first page belongs to. */
static __always_inline struct inode *inode_of(struct bio *bio)
{
	struct address_space *mapping;
	struct page *page;
	unsigned long head;
	struct bio_vec *vec;
	if (!bio || !BPF_CORE_READ(bio, bi_iter.bi_size))
		return NULL;
	/* Of a bio that was split, only the iterator tells where it begins. */
	vec = BPF_CORE_READ(bio, bi_io_vec);
	if (!vec)
		return NULL;
	vec = (void *)vec + (BPF_CORE_READ(bio, bi_iter.bi_idx) & 1023) * bpf_core_type_size(struct bio_vec);
	page = BPF_CORE_READ(vec, bv_page);
	if (!page)
		return NULL;
	head = BPF_CORE_READ(page, compound_head);
	if (head & 1)
		page = (struct page *)(head - 1);
	mapping = BPF_CORE_READ(page, mapping);
	if (!mapping || (unsigned long)mapping & 3)
		return NULL;
	return BPF_CORE_READ(mapping, host);
}

static __always_inline struct flight *flight_of(struct block *b, __u64 key)
{
	for (int i = 0; i < TRIES; i++) {
		struct flight *f = &b->flights[within(hash(key) + i, FLIGHTS)];
		if (f->rq == key)
			return f;
	}
	return NULL;
}

/* vote keeps the issuer of most of the bytes of late: each byte of another
 * takes one away, and who has none left gives way. */
static __always_inline void vote(struct device *d, __u32 issuer, __u64 bytes)
{
	__u64 votes = d->votes;
	if (d->user == issuer) {
		votes += bytes;
		d->votes = votes < USER_MOST ? votes : USER_MOST;
	} else if (votes > bytes) {
		d->votes = votes - bytes;
	} else {
		d->user = issuer;
		d->votes = bytes;
	}
}

static __noinline int made(struct request *rq, __u64 key)
{
	struct block *b = state();
	struct task_struct *p = bpf_get_current_task_btf();
	struct gendisk *disk;
	struct flight *f = NULL;
	struct issuer *s = NULL;
	struct bio *bio;
	struct owner *o;
	char desc[32] = {}, comm[TASK_COMM_LEN] = {};
	__u32 device, issuer = ISSUERS, tgid, via = DIRECT, op, dev;
	__u64 now, inode = 0;
	if (!b || !rq)
		return 0;
	disk = disk_of(rq);
	if (!disk)
		return 0;
	now = bpf_ktime_get_ns();
	device = device_for(b, disk);
	if (device >= DEVICES) {
		__sync_fetch_and_add(&b->lost, 1);
		return 0;
	}
	dev = b->devices[within(device, DEVICES)].dev;
	op = rq->cmd_flags & 0xff;
	bio = rq->bio;
	tgid = p->tgid;
	bpf_probe_read_kernel(comm, sizeof(comm), p->group_leader->comm);
	if (p->flags & PF_KTHREAD)
		via = KERNEL;
	if (op == REQ_OP_WRITE)
		inode = address(inode_of(bio));
	if (inode && (o = bpf_map_lookup_elem(&owners, &inode))) {
		if ((s = user_of(b, o->loop))) {
			via = LOOP;
			tgid = s->tgid;
			__builtin_memcpy(comm, s->comm, sizeof(comm));
		} else if (o->tgid != tgid) {
			via = WRITEBACK;
			tgid = o->tgid;
			__builtin_memcpy(comm, o->comm, sizeof(comm));
		}
	} else if (via == KERNEL && desc_of(p, desc)) {
		if ((s = user_of(b, loop_of(b, desc)))) {
			via = LOOP;
			tgid = s->tgid;
			__builtin_memcpy(comm, s->comm, sizeof(comm));
		} else {
			__builtin_memcpy(comm, desc, sizeof(comm));
			comm[TASK_COMM_LEN - 1] = 0;
		}
	}
	/* A flush request has no bio: it is the device's, for all who asked. */
	if (op != REQ_OP_FLUSH || bio)
		issuer = issuer_for(b, dev, tgid, comm, via, now);
	if (issuer < ISSUERS) {
		s = &b->issuers[within(issuer, ISSUERS)];
		s->last_ns = now;
		if (bio && BPF_CORE_READ(bio, bi_blkg))
			s->cgroup = BPF_CORE_READ(bio, bi_blkg, blkcg, css.cgroup, kn, id);
		s->via = via;
		if (via != KERNEL)
			vote(&b->devices[within(device, DEVICES)], issuer, rq->__data_len + 512);
	}
	for (int i = 0; i < TRIES; i++) {
		struct flight *g = &b->flights[within(hash(key) + i, FLIGHTS)];
		if (g->rq == key) {
			f = g;
			break;
		}
		if (!f && !g->rq)
			f = g;
	}
	if (!f) {
		__sync_fetch_and_add(&b->lost, 1);
		return 0;
	}
	f->alloc = rq->start_time_ns;
	f->made = now;
	f->issued = 0;
	f->device = device;
	f->issuer = issuer;
	f->tgid = tgid;
	f->bytes = 0;
	/* What was asked for: the block layer takes flags from the request that
	 * it sees to itself, before some kernels tell of it. */
	f->flags = rq->cmd_flags | (bio ? BPF_CORE_READ(bio, bi_opf) : 0);
	f->op = op;
	f->rq = key;
	return 0;
}

/* known tells whether the slot of a request is of this use of it. Where each
 * request is told of as it is made, it is; else by its start, which there is
 * written when the request is taken (and where not, after it is made). */
static __always_inline bool known(struct flight *f, struct request *rq)
{
	return f && (has_io_start || f->alloc == rq->start_time_ns);
}

SEC("tp_btf/block_io_start")
int io_start(__u64 *ctx)
{
	struct request *rq = (struct request *)ctx[0];
	return made(rq, address(rq));
}

SEC("tp_btf/block_rq_insert")
int rq_insert(__u64 *ctx)
{
	__u64 key;
	struct request *rq;
	struct block *b = state();
	if (queue_first)
		rq = (struct request *)ctx[1];
	else
		rq = (struct request *)ctx[0];
	key = address(rq);
	if (b && !known(flight_of(b, key), rq))
		made(rq, key);
	return 0;
}

SEC("tp_btf/block_rq_issue")
int rq_issue(__u64 *ctx)
{
	__u64 key;
	struct request *rq;
	struct block *b = state();
	struct flight *f;
	if (queue_first)
		rq = (struct request *)ctx[1];
	else
		rq = (struct request *)ctx[0];
	if (!b)
		return 0;
	key = address(rq);
	f = flight_of(b, key);
	if (!known(f, rq)) {
		made(rq, key);
		f = flight_of(b, key);
	}
	if (!f)
		return 0;
	f->issued = bpf_ktime_get_ns();
	f->bytes = rq->__data_len;
	__sync_fetch_and_add(&b->devices[within(f->device, DEVICES)].issued, 1);
	return 0;
}

/* A request that became part of another does not complete. */
SEC("tp_btf/block_rq_merge")
int rq_merge(__u64 *ctx)
{
	struct request *rq;
	struct block *b = state();
	struct flight *f;
	if (queue_first)
		rq = (struct request *)ctx[1];
	else
		rq = (struct request *)ctx[0];
	if (b && (f = flight_of(b, address(rq))))
		f->rq = 0;
	return 0;
}

static __always_inline __u32 bucket(__u64 ns)
{
	__u64 us = ns >> 10; /* nearly */
	__u32 log = 0;
	if (us < 4)
		return us;
	if (us >> 26)
		return 103;
	if (us >> 16)
		log += 16;
	if (us >> (log + 8))
		log += 8;
	if (us >> (log + 4))
		log += 4;
	if (us >> (log + 2))
		log += 2;
	if (us >> (log + 1))
		log += 1;
	/* Two bits below the highest. */
	return (log - 1) * 4 + ((us >> (log - 2)) & 3);
}

SEC("tp_btf/block_rq_complete")
int rq_complete(__u64 *ctx)
{
	struct request *rq = (struct request *)ctx[0];
	__s32 error = (__s32)ctx[1];
	__u32 bytes = (__u32)ctx[2], op, flags, tgid, issuer;
	struct block *b = state();
	struct flight *f;
	struct device *d;
	struct issuer *s = NULL;
	__u64 now, queued, took = 0;
	bool flush, failed;
	if (!b)
		return 0;
	f = flight_of(b, address(rq));
	if (!known(f, rq))
		return 0;
	if (bytes < rq->__data_len)
		return 0; /* the rest follows */
	now = bpf_ktime_get_ns();
	op = f->op;
	flags = f->flags;
	issuer = f->issuer;
	tgid = f->tgid;
	bytes = f->bytes ? f->bytes : bytes;
	d = &b->devices[within(f->device, DEVICES)];
	queued = (f->issued ? f->issued : now) - f->made;
	if (f->issued)
		took = now - f->issued;
	f->rq = 0;

	/* "not supported" is an answer: BLK_STS_NOTSUPP, before 5.18 EOPNOTSUPP */
	failed = error && error != 1 && error != -95;
	flush = op == REQ_OP_FLUSH || flags & (preflush | fua);
	if (issuer < ISSUERS) {
		s = &b->issuers[within(issuer, ISSUERS)];
		if (s->tgid != tgid || s->dev != d->dev)
			s = NULL;
	}
	__sync_fetch_and_add(&d->done, 1);
	if (failed) {
		__sync_fetch_and_add(&d->errors, 1);
		if (s)
			__sync_fetch_and_add(&s->errors, 1);
	}
	if (s)
		s->last_ns = now;
	if (op == REQ_OP_FLUSH && !s && has_io_start)
		return 0; /* those who asked for it have requests of their own */
	if (flush) {
		__sync_fetch_and_add(&d->flushes, 1);
		__sync_fetch_and_add(&d->flush_ns, queued + took);
		if (s) {
			__sync_fetch_and_add(&s->flushes, 1);
			__sync_fetch_and_add(&s->flush_ns, queued + took);
		}
	}
	if (op == REQ_OP_DISCARD || op == REQ_OP_SECURE_ERASE) {
		__sync_fetch_and_add(&d->discards, 1);
		if (s)
			__sync_fetch_and_add(&s->discards, 1);
		return 0;
	}
	if (!bytes || op > REQ_OP_WRITE)
		return 0;
	__sync_fetch_and_add(&d->queue_ns, queued);
	__sync_fetch_and_add(&d->device_ns, took);
	__u32 at = bucket(took);
	if (at < BUCKETS)
		__sync_fetch_and_add(&d->buckets[within(at, BUCKETS)], 1);
	if (op == REQ_OP_READ)
		__sync_fetch_and_add(&d->read_bytes, bytes);
	else
		__sync_fetch_and_add(&d->write_bytes, bytes);
	if (!s)
		return 0;
	__sync_fetch_and_add(&s->queue_ns, queued);
	__sync_fetch_and_add(&s->device_ns, took);
	if (op == REQ_OP_READ) {
		__sync_fetch_and_add(&s->reads, 1);
		__sync_fetch_and_add(&s->read_bytes, bytes);
	} else {
		__sync_fetch_and_add(&s->writes, 1);
		__sync_fetch_and_add(&s->write_bytes, bytes);
	}
	return 0;
}

/* An inode that was clean is dirty: what is written of it later, by whatever
 * kernel thread, is the current task's. */
SEC("tp_btf/writeback_dirty_inode_enqueue")
int dirtied(__u64 *ctx)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct block *b = state();
	struct owner o = {};
	char desc[32] = {};
	__u64 key = address((void *)ctx[0]);
	if (!b)
		return 0;
	o.tgid = p->tgid;
	o.loop = DEVICES;
	if (!(p->flags & PF_KTHREAD))
		bpf_probe_read_kernel(o.comm, sizeof(o.comm), p->group_leader->comm);
	else if (!desc_of(p, desc) || (o.loop = loop_of(b, desc)) >= DEVICES)
		return 0;
	bpf_map_update_elem(&owners, &key, &o, BPF_ANY);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
