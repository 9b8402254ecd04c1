//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * requests: how long everyone waits at every TCP and Unix stream service of
 * the host: for a connection to be accepted, for data that arrived to be read,
 * for the first byte of an answer; and of the clients on this host, from a
 * request to another host to the first byte that comes back.
 *
 *   sk_data_ready      data was queued (or, at a Unix listener, a connection)
 *   sock_recv_length   a process has read
 *   sock_send_length   a process has written; sendfile and io_uring too
 *   inet_sock_set_state   a TCP connection was made, or ended
 *   tcp_send_reset        a TCP client was told that nobody listens
 *
 * Kernels before 6.3 have only the last; the others are made of what they have
 * for TCP.
 *
 * What is known of a socket lies in a slot that its storage names, so that an
 * event is two look-ups without a hash. A request begins when data arrives on a
 * socket that owes no answer and ends with the first byte that is sent: those
 * three events take the time, all others (more data, more of the answer) only
 * look. What took long is told when it is over, what takes long while it lasts
 * is found by walking the slots, and everything is counted.
 *
 * The walk is a program that user space runs (BPF_PROG_TEST_RUN), not an
 * iterator: there are kernels that refuse those over maps, and those over
 * sockets take each one's lock, which a process that sleeps in a page fault
 * may hold. It reads the sockets as they are, without a reference: one that is
 * gone shows by its cookie, and gives its slot back.
 *
 * Which way round a socket is used is decided once: TCP children inherit their
 * listener's storage (BPF_F_CLONE), Unix ones its address.
 */
#include "sockets.h"
#include "rate.h"

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define IPPROTO_TCP 6
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_CLOSE 7
#define TCP_LISTEN 10
#define MSG_PEEK 2
#define MSG_ERRQUEUE 0x2000
#define RCV_SHUTDOWN 1
#define SS_LISTENING 0

#define SERVICES 512 /* listeners; 0 is none */
#define PLACES 768   /* and the addresses that clients of this host ask */
#define BINS 80
#define QUEUE 16
#define THREADS 4
#define SHARDS 4 /* at most */
#define PATH 108

#define ECONNREFUSED 111
#define OFTEN 20000000 /* ns: how often refusals at one service are told at most */

#define QUICK 2 /* jiffies */
#define EXACT 8 /* a power of two */

/* Which side of a connection a socket is. */
enum { LISTENER = 1, SERVER = 2, CLIENT = 3, IGNORED = 4 };

/* What is waited for; the histograms are in this order too. */
enum { ACCEPT = 0, RECEIVE = 1, ANSWER = 2, REPLY = 3, KINDS = 4, ABSENCE = 4 };

/* How a wait stands. */
enum {
	IN_FLIGHT = 0,
	DONE = 1,
	CLOSED = 2,    /* the connection was, or the other end's half of it */
	TAKEN_UP = 3,  /* accepted at some moment since the last walk */
	SUPERSEDED = 5, /* more of the request came, and it was not complete */
	QUEUED = 4,    /* at a Unix listener; queue says how many */
	REFUSED = 6,   /* ABSENCE: a client was; unanswered says how many were */
};

/* known is in a socket's storage. */
struct known {
	__u32 slot; /* of its state; 0: none */
	__u16 service;
	__u8 kind;
	__u8 spare;
};

/* state is what is known of a socket that serves, asks or listens. */
struct state {
	__u64 sk;       /* the socket; 0: the slot is free */
	__u64 began;    /* SERVER: the first data that is not answered; CLIENT: the request; 0: nothing is owed */
	__u64 read;     /* when it was first read; 0: not yet; as began: at once */
	__u64 later;    /* since when more has arrived that is not read; 0: nothing */
	__u64 thread;   /* the last that read or wrote: tgid << 32 | tid */
	__u64 accepted; /* when that was noticed; 0: not yet */
	__u64 tell;     /* when the walk tells of it again; 0: it was not told */
	__u64 opened;   /* the connection was made; 0: before us */
	__u64 cookie;
	__u32 answers;
	__u32 unanswered; /* that were followed by more data instead of an answer */
	__u16 service;
	__u8 kind;
	__u8 looked; /* the last read only peeked */
	__u32 jiffies; /* at began, or later */
	char comm[TASK_COMM_LEN]; /* of the thread */
};

struct place {
	__u32 netns;
	__u16 family; /* AF_UNIX: addr holds the kernel's address of the name */
	__u16 port;
	__u8 addr[16]; /* IPv4 as ::ffff:a.b.c.d */
	__u32 far;     /* 1: what is asked, 0: what listens */
	__u32 spare;
};

struct server {
	__u64 thread;
	__u32 times; /* connections that it was the first to touch */
	__u32 spare;
	char comm[TASK_COMM_LEN];
};

/* service is a listening address, or one that is asked. */
struct service {
	__u64 least;   /* shorter waits are only counted; user space sets it */
	__u64 seen;    /* when the walk last met a socket of it */
	__u64 touched; /* when a new connection was last touched by a thread */
	__u64 cookie;  /* of a socket that stands for it */
	__u64 connected[QUEUE]; /* Unix: when the last connections were made */
	struct server threads[THREADS];
	struct place place;
	__u32 connects;
	__u32 turn; /* counts uses of this slot */
	__u32 next_thread;
	__u16 path_bytes;
	__u8 used;
	__u8 spare;
	char path[PATH];
	__u32 listeners;    /* TCP sockets that listen here */
	__u32 refused;      /* clients, since gone */
	__u32 spare2;
	__u64 gone;         /* when the last of the listeners was closed; 0: there is one */
	__u64 refused_told;
};

/* history is the counts of a service, on some of the CPUs, since user space
 * took them last. */
struct history {
	__u64 last[KINDS]; /* when one was last counted */
	__u32 moved;       /* answers that another thread wrote than read the request */
	__u32 spare;
	__u32 bins[KINDS][BINS];
};

/* told is a wait that takes or took long. */
struct told {
	__u64 cookie;
	__u64 opened, began, read, done;
	__u64 accepted;
	__u64 answered; /* the last answer of the service, on any connection */
	__u64 thread;
	__u32 unread; /* bytes */
	__u32 queue;  /* connections */
	__u32 answers;
	__u32 unanswered;
	__u32 turn; /* of the service's slot */
	__u16 service;
	__u8 kind;
	__u8 how;
	__u16 family, port;
	__u32 peer_pid; /* Unix: who connected */
	__u8 addr[16];  /* the other end */
	char comm[TASK_COMM_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct known);
} sockets SEC(".maps");

/* Slot 0 is none. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << 13); /* more where there is memory, when it is loaded */
	__type(key, __u32);
	__type(value, struct state);
} states SEC(".maps");

/* Slots that were given back: the lowest are taken first, about, so that a walk
 * stays short. */
struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 1 << 13);
	__type(value, __u32);
} free_states SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, PLACES);
	__type(key, __u32);
	__type(value, struct service);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PLACES); /* times the shards, when it is loaded */
	__type(key, __u32);
	__type(value, struct history);
} histories SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * PLACES);
	__type(key, struct place);
	__type(value, __u32);
} registry SEC(".maps");

/* Ports on which something listened, in any namespace: a bit each. Most sockets
 * need not be looked for in the registry. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} ports SEC(".maps");

/* Slots that are free, filled by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, PLACES);
	__type(value, __u32);
} free_services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, PLACES);
	__type(value, __u32);
} free_places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} ended SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 17);
} flight SEC(".maps");

volatile const bool older = false;     /* the tracepoints are those before Linux 6.3 */
volatile const bool resets = false;    /* tcp_send_reset tells of those without a socket: since Linux 6.10 */
volatile const __u32 shard_mask = 0;   /* shards - 1 */
volatile const __u64 told_most = 500;  /* a second and CPU */
volatile const __u32 walk_most = 400;  /* told by one walk */

volatile const __u32 state_slots = 1 << 13;

__u32 taken = 0;    /* slots that were ever used */
__u64 crowded = 0;  /* sockets that found none left */
__u64 walk_at = 0;   /* when the walk that goes on began */
__u32 walk_told = 0; /* how many it has told of */
__u32 walk_turn = 0;

/* ------------------------------------------------------------ counting */

static __always_inline __u32 bin_of(__u64 ns)
{
	__u64 wide = ns >> 16;
	__u32 v, r, s;

	if (wide < 4)
		return wide;
	if (wide > 0xffffffff)
		return BINS - 1;
	v = wide;
	r = (v > 0xffff) << 4;
	v >>= r;
	s = (v > 0xff) << 3;
	v >>= s;
	r |= s;
	s = (v > 0xf) << 2;
	v >>= s;
	r |= s;
	s = (v > 0x3) << 1;
	v >>= s;
	r |= s | v >> 1;
	r -= 2; /* the octave; 0 is 4 to 7 */
	r = r * 4 + (__u32)(wide >> r);
	return r < BINS ? r : BINS - 1;
}

static __always_inline struct history *history_of(__u32 service)
{
	__u32 i = service * (shard_mask + 1) + (bpf_get_smp_processor_id() & shard_mask);

	return bpf_map_lookup_elem(&histories, &i);
}

static __always_inline struct service *service_of(__u32 id)
{
	return bpf_map_lookup_elem(&services, &id);
}

static __always_inline void count(struct history *h, __u32 kind, __u64 took, __u64 now, __u32 times)
{
	__u32 b = bin_of(took);

	if (!h || b >= BINS)
		return;
	h->last[kind] = now;
	__sync_fetch_and_add(&h->bins[kind][b], times);
}

/* ----------------------------------------------------- what a socket is */

static __always_inline __u32 netns_of(struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
}

static __always_inline struct unix_address *unix_name(struct sock *sk)
{
	return BPF_CORE_READ((struct unix_sock *)sk, addr);
}

static __always_inline void end_address(__u8 *to, struct sock *sk, bool far)
{
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6) {
		if (far)
			BPF_CORE_READ_INTO((__u8(*)[16])to, sk, __sk_common.skc_v6_daddr);
		else
			BPF_CORE_READ_INTO((__u8(*)[16])to, sk, __sk_common.skc_v6_rcv_saddr);
		return;
	}
	__builtin_memset(to, 0, 10);
	to[10] = to[11] = 0xff;
	__u32 v4 = far ? BPF_CORE_READ(sk, __sk_common.skc_daddr) : BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
	__builtin_memcpy(to + 12, &v4, 4);
}

/* enter finds the slot of a place, or takes a new one; 0: there is none left. */
static __noinline __u32 enter(struct place *p, struct unix_address *name, __u64 cookie)
{
	__u32 *have, id = 0;
	struct service *s;
	int len;

	have = bpf_map_lookup_elem(&registry, p);
	if (have)
		return *have;
	if (p->far ? bpf_map_pop_elem(&free_places, &id) : bpf_map_pop_elem(&free_services, &id))
		return 0;
	if (bpf_map_update_elem(&registry, p, &id, BPF_NOEXIST)) {
		/* Another CPU was quicker. */
		if (p->far)
			bpf_map_push_elem(&free_places, &id, BPF_ANY);
		else
			bpf_map_push_elem(&free_services, &id, BPF_ANY);
		have = bpf_map_lookup_elem(&registry, p);
		return have ? *have : 0;
	}
	s = service_of(id);
	if (!s)
		return 0;
	s->place = *p;
	s->cookie = cookie;
	s->path_bytes = 0;
	s->connects = 0;
	s->next_thread = 0;
	s->listeners = s->refused = 0;
	s->gone = s->refused_told = 0;
	__builtin_memset(s->threads, 0, sizeof(s->threads));
	if (name) {
		len = BPF_CORE_READ(name, len) - offsetof(struct sockaddr_un, sun_path);
		if (len > 0 && len <= PATH) {
			bpf_probe_read_kernel(s->path, PATH, &name->name[0].sun_path);
			s->path_bytes = len;
		}
	}
	s->seen = bpf_ktime_get_ns();
	s->turn++;
	s->used = 1;
	return id;
}

static __always_inline void unix_place(struct place *p, struct sock *sk, struct unix_address *name)
{
	__u64 at = (__u64)name;

	__builtin_memset(p, 0, sizeof(*p));
	p->netns = netns_of(sk);
	p->family = AF_UNIX;
	__builtin_memcpy(p->addr, &at, sizeof(at));
}

/* find looks for the listener that takes what comes to an address. */
static __noinline __u32 find(struct place *p)
{
	__u32 *id = bpf_map_lookup_elem(&registry, p);

	if (id)
		return *id;
	if (p->addr[10] == 0xff && p->addr[11] == 0xff && !p->addr[0] && !p->addr[1]) {
		__builtin_memset(p->addr + 12, 0, 4);
		id = bpf_map_lookup_elem(&registry, p);
		if (id)
			return *id;
	}
	__builtin_memset(p->addr, 0, 16);
	id = bpf_map_lookup_elem(&registry, p);
	return id ? *id : 0;
}

static __always_inline bool is_port(__u16 port)
{
	__u32 word = port >> 6;
	__u64 *bits = bpf_map_lookup_elem(&ports, &word);

	return bits && *bits >> (port & 63) & 1;
}

/* state_at is the state in a slot, if it is a socket's. */
static __always_inline struct state *state_at(__u32 slot, struct sock *sk)
{
	struct state *st = slot ? bpf_map_lookup_elem(&states, &slot) : NULL;

	return st && st->sk == (__u64)sk ? st : NULL;
}

/* take gives a socket a slot; NULL: there is none left. */
static __always_inline struct state *take(struct sock *sk, struct known *k, __u8 kind, __u16 service)
{
	struct state *st;
	__u32 slot = 0;

	k->kind = kind;
	k->service = service;
	k->slot = 0;
	if (bpf_map_pop_elem(&free_states, &slot)) {
		if (taken + 1 >= state_slots) {
			__sync_fetch_and_add(&crowded, 1);
			return NULL;
		}
		slot = __sync_fetch_and_add(&taken, 1) + 1;
	}
	st = bpf_map_lookup_elem(&states, &slot);
	if (!st)
		return NULL;
	__builtin_memset(st, 0, sizeof(*st));
	st->cookie = bpf_get_socket_cookie(sk);
	st->kind = kind;
	st->service = service;
	st->sk = (__u64)sk;
	k->slot = slot;
	return st;
}

/* give_back frees a slot. */
static __always_inline void give_back(struct state *st, __u32 slot)
{
	st->sk = 0;
	bpf_map_push_elem(&free_states, &slot, BPF_ANY);
}

/* answered is when a service last answered anybody. */
static __always_inline __u64 answered(__u32 service)
{
	__u64 at = 0;
	__u32 i, shard;

	for (i = 0; i < SHARDS; i++) {
		shard = service * (shard_mask + 1) + (i & shard_mask);
		struct history *h = bpf_map_lookup_elem(&histories, &shard);
		if (h && h->last[ANSWER] > at)
			at = h->last[ANSWER];
	}
	return at;
}

/* absence tells that nobody listens at a service any more, that a client was
 * refused because of that, or that somebody does again; of the thread at work. */
static __noinline int absence(__u32 id, __u32 how, __u64 now)
{
	struct service *s = service_of(id);
	struct rate *r;
	struct told *t;

	if (!s)
		return 0;
	r = rate_here();
	if (!r || !may_tell(r, now, told_most))
		return 0;
	t = bpf_ringbuf_reserve(&ended, sizeof(*t), 0);
	if (!t) {
		r->lost++;
		return 0;
	}
	__builtin_memset(t, 0, sizeof(*t));
	t->kind = ABSENCE;
	t->how = how;
	t->service = id;
	t->turn = s->turn;
	t->family = s->place.family;
	t->began = s->gone;
	t->done = now;
	t->unanswered = s->refused;
	t->answered = answered(id);
	t->cookie = s->cookie;
	if (how != REFUSED) {
		t->thread = bpf_get_current_pid_tgid();
		bpf_get_current_comm(t->comm, sizeof(t->comm));
	}
	bpf_ringbuf_submit(t, BPF_RB_NO_WAKEUP);
	return 0;
}

static __always_inline void begins_to_listen(__u32 id)
{
	struct service *s = service_of(id);

	if (!s || !id)
		return;
	__sync_fetch_and_add(&s->listeners, 1);
	if (s->gone) {
		absence(id, DONE, bpf_ktime_get_ns());
		s->gone = 0;
		s->refused = 0;
	}
}

static __always_inline void listens_no_more(__u32 id)
{
	struct service *s = service_of(id);

	if (!s || !id || !s->listeners)
		return;
	__sync_fetch_and_add(&s->listeners, -1);
	if (s->listeners || !answered(id))
		return;
	s->refused = 0;
	s->refused_told = 0;
	s->gone = bpf_ktime_get_ns();
	absence(id, IN_FLIGHT, s->gone);
}

/* refuses counts a client that wanted a service at which nobody listens. */
static __always_inline void refuses(__u32 id)
{
	struct service *s = service_of(id);
	__u64 now;

	if (!s || !id || !s->gone)
		return;
	now = bpf_ktime_get_ns();
	__sync_fetch_and_add(&s->refused, 1);
	s->seen = now; /* it is wanted: it keeps its slot */
	if (now - s->refused_told < OFTEN)
		return;
	s->refused_told = now;
	absence(id, REFUSED, now);
}

static __always_inline void listen_at(struct sock *sk)
{
	struct place p = {};
	struct known *k;
	__u64 *bits;
	__u32 word, id;

	k = bpf_sk_storage_get(&sockets, sk, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!k || (k->kind == LISTENER && state_at(k->slot, sk)))
		return;
	p.netns = netns_of(sk);
	p.family = AF_INET;
	p.port = sk->__sk_common.skc_num;
	end_address(p.addr, sk, false);
	id = enter(&p, NULL, bpf_get_socket_cookie(sk));
	if (take(sk, k, LISTENER, id))
		begins_to_listen(id);
	word = p.port >> 6;
	bits = bpf_map_lookup_elem(&ports, &word);
	if (bits)
		__sync_fetch_and_or(bits, 1ULL << (p.port & 63));
}

static __always_inline struct state *listen_unix(struct sock *sk)
{
	struct unix_address *name = unix_name(sk);
	struct place p;
	struct state *st;
	struct known *k;

	if (!name)
		return NULL;
	k = bpf_sk_storage_get(&sockets, sk, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!k)
		return NULL;
	st = state_at(k->slot, sk);
	if (st)
		return st;
	unix_place(&p, sk, name);
	return take(sk, k, LISTENER, enter(&p, name, bpf_get_socket_cookie(sk)));
}

/* same_host tells whether the other end of a TCP connection is on this host. */
static __always_inline bool same_host(struct sock *sk, __u8 *far)
{
	__u8 near[16];
	int i;

	end_address(near, sk, false);
	for (i = 0; i < 16; i++)
		if (near[i] != far[i])
			return far[10] == 0xff && far[11] == 0xff && far[12] == 127;
	return true;
}

/* meet decides what a socket is of which nothing is known yet. */
static __always_inline struct state *meet(struct sock *sk, bool child)
{
	__u16 family = sk->__sk_common.skc_family;
	struct unix_address *name, *other;
	struct sock *peer;
	struct place p = {};
	struct known *k;
	__u64 cookie;
	__u32 id = 0;

	if (family != AF_UNIX && family != AF_INET && family != AF_INET6)
		return NULL;
	if (sk->__sk_common.skc_state != TCP_ESTABLISHED && !(older && sk->__sk_common.skc_state == TCP_SYN_SENT))
		return NULL;
	k = bpf_sk_storage_get(&sockets, sk, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!k)
		return NULL;
	cookie = bpf_get_socket_cookie(sk);
	k->kind = IGNORED;
	if (family == AF_UNIX) {
		name = unix_name(sk);
		peer = BPF_CORE_READ((struct unix_sock *)sk, peer);
		other = peer ? unix_name(peer) : NULL;
		if (!name)
			return NULL;
		unix_place(&p, sk, name);
		id = find(&p);
		if (!id && !other) {
			unix_place(&p, sk, name);
			id = enter(&p, name, cookie);
		}
		return id ? take(sk, k, SERVER, id) : NULL;
	}
	p.netns = netns_of(sk);
	p.family = AF_INET;
	p.port = sk->__sk_common.skc_num;
	end_address(p.addr, sk, false);
	if (is_port(p.port))
		id = find(&p);
	if (!id && child) {
		/* Its listener was made where we did not look. */
		end_address(p.addr, sk, false);
		id = enter(&p, NULL, cookie);
	}
	if (id)
		return take(sk, k, SERVER, id);
	end_address(p.addr, sk, true);
	if (same_host(sk, p.addr))
		return NULL; /* the service's own end tells it all */
	p.port = bpf_ntohs(sk->__sk_common.skc_dport);
	p.far = 1;
	return take(sk, k, CLIENT, enter(&p, NULL, cookie));
}

/* state_of is what is known of a socket on which something happens; NULL: it is
 * of no interest. */
static __always_inline struct state *state_of(struct sock *sk)
{
	struct known *k = bpf_sk_storage_get(&sockets, sk, 0, 0);
	struct state *st;

	if (!k)
		return meet(sk, false);
	if (k->kind == IGNORED)
		return NULL;
	st = state_at(k->slot, sk);
	if (st)
		return st;
	/* There was no slot left, or it is a child that was met before it was
	 * connected. */
	return k->slot ? meet(sk, false) : NULL;
}

static __always_inline __u32 unread(struct sock *sk)
{
	struct tcp_sock *tp = (struct tcp_sock *)sk;

	if (BPF_CORE_READ(sk, __sk_common.skc_family) != AF_UNIX && BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP)
		return BPF_CORE_READ(tp, rcv_nxt) - BPF_CORE_READ(tp, copied_seq);
	return BPF_CORE_READ(sk, sk_receive_queue.qlen);
}

/* ------------------------------------------------------------- telling */

static __always_inline void fill(struct told *t, struct sock *sk, struct state *st, struct service *s)
{
	t->cookie = st->cookie;
	t->opened = st->opened;
	t->began = st->began;
	t->read = st->read;
	t->accepted = st->accepted;
	t->thread = st->thread;
	t->answers = st->answers;
	t->unanswered = st->unanswered;
	t->service = st->service;
	t->turn = s->turn;
	t->unread = 0;
	t->queue = 0;
	t->answered = answered(st->service);
	t->peer_pid = 0;
	t->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	t->port = 0;
	__builtin_memcpy(t->comm, st->comm, sizeof(t->comm));
	if (t->family == AF_UNIX) {
		__builtin_memset(t->addr, 0, sizeof(t->addr));
		struct pid *pid = BPF_CORE_READ(sk, sk_peer_pid);
		if (pid)
			t->peer_pid = BPF_CORE_READ(pid, numbers[0].nr);
	} else {
		end_address(t->addr, sk, true);
		t->port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	}
}

/* over tells of a wait that took long, or was told while it lasted; what is its
 * kind, and above it how it ended. */
static __noinline int over(struct sock *sk, struct state *st, __u32 what, __u64 began, __u64 now)
{
	struct service *s;
	struct rate *r;
	struct told *t;

	if (!sk || !st)
		return 0;
	s = service_of(st->service);
	if (!s || (now - began < s->least && !st->tell))
		return 0;
	r = rate_here();
	if (!r || !may_tell(r, now, told_most))
		return 0;
	t = bpf_ringbuf_reserve(&ended, sizeof(*t), 0);
	if (!t) {
		r->lost++;
		return 0;
	}
	fill(t, sk, st, s);
	t->kind = what;
	t->how = what >> 8;
	t->began = began;
	t->done = now;
	bpf_ringbuf_submit(t, BPF_RB_NO_WAKEUP);
	return 0;
}

/* by notes the current thread as the one that serves a socket. */
static __always_inline void by(struct state *st)
{
	__u64 thread = bpf_get_current_pid_tgid();

	if (st->thread == thread)
		return;
	st->thread = thread;
	bpf_get_current_comm(st->comm, sizeof(st->comm));
}

/* touch is the first that a process does with a connection; that it was accepted
 * may have been noticed before. */
static __always_inline void touch(struct sock *sk, struct state *st, bool reads)
{
	__u64 now = bpf_ktime_get_ns();
	struct service *s = service_of(st->service);
	struct server *t;
	int i;

	by(st);
	if (s) {
		s->touched = now;
		for (i = 0; i < THREADS; i++) {
			t = &s->threads[i];
			if (t->thread == st->thread) {
				t->times++;
				goto known;
			}
		}
		t = &s->threads[s->next_thread++ % THREADS];
		t->thread = st->thread;
		t->times = 1;
		__builtin_memcpy(t->comm, st->comm, sizeof(t->comm));
	}
known:
	/* It was waited for when data was there, or when the server speaks first. */
	if (!st->accepted && st->opened && (st->began || !reads)) {
		count(history_of(st->service), ACCEPT, now - st->opened, now, 1);
		over(sk, st, ACCEPT | DONE << 8, st->opened, now);
		if (st->began) {
			/* From now on it waits for its answer. */
			st->began = now;
			st->tell = 0;
		}
	}
	if (!st->accepted)
		st->accepted = now;
}

/* closing ends what is waited for on a connection. */
static __always_inline void closing(struct sock *sk, struct state *st)
{
	__u64 now;

	if (!st->began && (st->accepted || !st->opened))
		return;
	now = bpf_ktime_get_ns();
	if (st->kind == CLIENT) {
		if (st->began)
			over(sk, st, REPLY | CLOSED << 8, st->began, now);
	} else if (!st->accepted && st->opened) {
		over(sk, st, ACCEPT | CLOSED << 8, st->opened, now);
	} else if (st->began) {
		if (st->later)
			over(sk, st, RECEIVE | CLOSED << 8, st->later, now);
		over(sk, st, (st->read ? ANSWER : RECEIVE) | CLOSED << 8, st->began, now);
	}
	st->began = 0;
	st->later = 0;
	st->tell = 0;
	st->opened = 0;
}

/* -------------------------------------------------------------- events */

static __always_inline int data_arrived(struct sock *sk)
{
	struct service *s;
	struct state *st;
	__u64 now;

	if (sk->sk_type != SOCK_STREAM)
		return 0;
	if (sk->__sk_common.skc_state != TCP_ESTABLISHED) {
		if (sk->__sk_common.skc_family != AF_UNIX || sk->__sk_common.skc_state != TCP_LISTEN)
			return 0;
		/* A connection was made to a Unix socket. */
		st = listen_unix(sk);
		if (!st)
			return 0;
		s = service_of(st->service);
		if (s)
			s->connected[__sync_fetch_and_add(&s->connects, 1) % QUEUE] = bpf_ktime_get_ns();
		return 0;
	}
	st = state_of(sk);
	if (!st)
		return 0;
	if (st->kind == SERVER) {
		if (st->began && (!st->read || st->later))
			return 0;
		if (sk->__sk_common.skc_family == AF_UNIX && !sk->sk_receive_queue.qlen)
			return 0; /* it was read before it was announced */
		now = bpf_ktime_get_ns();
		if (!st->accepted && sk->sk_socket)
			st->accepted = now;
		if (st->began) {
			st->later = now;
			return 0;
		}
		st->read = 0;
		st->later = 0;
		if (!st->opened)
			st->opened = now;
		if (st->accepted)
			st->tell = 0;
		st->began = now;
		st->jiffies = bpf_jiffies64();
	} else if (st->kind == CLIENT && st->began) {
		now = bpf_ktime_get_ns();
		count(history_of(st->service), REPLY, now - st->began, now, 1);
		over(sk, st, REPLY | DONE << 8, st->began, now);
		st->began = 0;
		st->answers++;
	}
	return 0;
}

static __always_inline int data_read(struct sock *sk, int ret, int flags)
{
	struct state *st;
	__u64 now, since;
	__u32 times;

	if (sk->sk_type != SOCK_STREAM)
		return 0;
	st = state_of(sk);
	if (!st)
		return 0;
	if (st->kind != SERVER) {
		if (st->kind == CLIENT && st->began && ret > 0)
			st->began = 0; /* answered before the sender was back from sending */
		return 0;
	}
	if (!st->accepted || !st->thread)
		touch(sk, st, true);
	if (ret <= 0 || flags & MSG_ERRQUEUE) {
		/* There was nothing; or the other end is done. */
		if (!ret && sk->__sk_common.skc_family == AF_UNIX && sk->sk_shutdown & RCV_SHUTDOWN)
			closing(sk, st);
		return 0;
	}
	by(st);
	/* Who peeks has noticed, and waits for nobody to wake up. */
	st->looked = flags & MSG_PEEK ? 1 : 0;
	if (!st->began || (st->read && !st->later))
		return 0;
	if (!st->read) {
		times = 1;
		if ((__u32)bpf_jiffies64() - st->jiffies < QUICK) {
			/* Nobody waited. Of these one in EXACT is measured. */
			if (st->answers & (EXACT - 1)) {
				st->read = st->began;
				return 0;
			}
			times = st->answers ? EXACT : 1;
		}
		since = st->began;
	} else {
		times = 1;
		since = st->later;
	}
	now = bpf_ktime_get_ns();
	count(history_of(st->service), RECEIVE, now - since, now, times);
	over(sk, st, RECEIVE | DONE << 8, since, now);
	if (st->read) {
		/* More of the request: it was not complete, and nobody could have
		 * answered it before. */
		if (since - st->began > 20000000)
			st->unanswered++;
		if (st->tell)
			over(sk, st, ANSWER | SUPERSEDED << 8, st->began, since);
		st->began = since;
		st->later = 0;
	}
	st->tell = 0;
	st->read = now;
	return 0;
}

static __always_inline int data_sent(struct sock *sk, struct state *st)
{
	struct history *h;
	__u64 now, thread;

	if (st->kind == SERVER) {
		if (!st->accepted || !st->thread)
			touch(sk, st, false);
		if (!st->began)
			return 0;
		if (!st->read && unread(sk))
			return 0; /* it says something else */
		now = bpf_ktime_get_ns();
		thread = st->thread;
		by(st);
		st->answers++;
		if (!st->read)
			st->read = now; /* by splice */
		/* Told before it is counted: it says when others were answered. */
		over(sk, st, ANSWER | DONE << 8, st->began, now);
		h = history_of(st->service);
		count(h, ANSWER, now - st->began, now, 1);
		if (h && thread != st->thread)
			h->moved++;
		st->read = 0;
		st->tell = 0;
		st->began = st->later;
		if (st->later) {
			st->jiffies = bpf_jiffies64();
			st->later = 0;
		}
	} else if (st->kind == CLIENT && !st->began) {
		by(st);
		st->tell = 0;
		st->began = bpf_ktime_get_ns();
	}
	return 0;
}

SEC("tp_btf/sk_data_ready")
int BPF_PROG(arrived, struct sock *sk)
{
	return data_arrived(sk);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(received, struct sock *sk, int ret, int flags)
{
	return data_read(sk, ret, flags);
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(sent, struct sock *sk, int ret, int flags)
{
	struct state *st;

	if (sk->sk_type != SOCK_STREAM || ret <= 0)
		return 0;
	st = state_of(sk);
	return st ? data_sent(sk, st) : 0;
}

/* Before Linux 6.3 the same three are told by others, of TCP only: a segment
 * came, data was copied out, a segment goes. */

static __always_inline bool tcp_stream(struct sock *sk)
{
	__u16 family = sk->__sk_common.skc_family;

	return sk->__sk_common.skc_state == TCP_ESTABLISHED && (family == AF_INET || family == AF_INET6) &&
	       sk->sk_protocol == IPPROTO_TCP;
}

/* Called before the segment is looked at: of what is new and in order the
 * reader is told a little later. */
SEC("tp_btf/tcp_probe")
int BPF_PROG(probed, struct sock *sk, struct sk_buff *skb)
{
	struct tcp_skb_cb cb = {};
	__u32 next;

	if (!tcp_stream(sk))
		return 0;
	bpf_probe_read_kernel(&cb, sizeof(cb), &skb->cb);
	next = BPF_CORE_READ((struct tcp_sock *)sk, rcv_nxt);
	if (cb.end_seq == cb.seq || (__s32)(cb.end_seq - next) <= 0 || (__s32)(cb.seq - next) > 0)
		return 0;
	return data_arrived(sk);
}

/* Called whenever some of a segment was copied to whoever reads. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(copied, struct sock *sk)
{
	if (!tcp_stream(sk))
		return 0;
	return data_read(sk, 1, 0);
}

/* Called when a packet is given to a device; what is sent again or is only an
 * acknowledgement is no answer. */
SEC("tp_btf/net_dev_queue")
int BPF_PROG(departs, struct sk_buff *skb)
{
	struct sock *sk = skb->sk;
	struct known *k;
	struct state *st;
	__u64 head, data;
	__u32 length, seq;
	__u16 at;
	__u8 words;

	if (!sk || !tcp_stream(sk))
		return 0;
	/* A socket is met where it is given by itself: newer kernels do not let this
	 * one be used for that. */
	k = bpf_sk_storage_get(&sockets, sk, 0, 0);
	st = k ? state_at(k->slot, sk) : NULL;
	if (!st || (st->kind == SERVER && st->accepted && !st->began) || (st->kind == CLIENT && st->began) ||
	    (st->kind != SERVER && st->kind != CLIENT))
		return 0;
	head = address(skb->head);
	data = address(skb->data);
	at = skb->transport_header;
	if (bpf_probe_read_kernel(&words, sizeof(words), (void *)(head + at + 12)) ||
	    bpf_probe_read_kernel(&seq, sizeof(seq), (void *)(head + at + 4)))
		return 0;
	length = (__u32)(head + at - data) + (words >> 4) * 4;
	if (skb->len <= length || (__s32)(bpf_ntohl(seq) - BPF_CORE_READ((struct tcp_sock *)sk, snd_nxt)) < 0)
		return 0;
	return data_sent(sk, st);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(changed, struct sock *sk, int old, int now)
{
	struct state *st;
	struct known *k;

	if (sk->sk_type != SOCK_STREAM)
		return 0;
	if (now == TCP_LISTEN) {
		listen_at(sk);
		return 0;
	}
	if (now == TCP_ESTABLISHED) {
		if (old == TCP_SYN_SENT && older && !bpf_sk_storage_get(&sockets, sk, 0, 0))
			meet(sk, false);
		if (old != TCP_SYN_RECV)
			return 0;
		k = bpf_sk_storage_get(&sockets, sk, 0, 0);
		if (k && k->kind == LISTENER)
			st = take(sk, k, SERVER, k->service);
		else
			st = meet(sk, true);
		if (st && st->kind == SERVER)
			st->opened = bpf_ktime_get_ns();
		return 0;
	}
	if (old != TCP_ESTABLISHED && now != TCP_CLOSE)
		return 0;
	if (old == TCP_SYN_SENT && !resets && sk->sk_err == ECONNREFUSED) {
		struct place p = {};

		p.netns = netns_of(sk);
		p.family = AF_INET;
		p.port = bpf_ntohs(sk->__sk_common.skc_dport);
		end_address(p.addr, sk, true);
		if (is_port(p.port))
			refuses(find(&p));
	}
	k = bpf_sk_storage_get(&sockets, sk, 0, 0);
	st = k ? state_at(k->slot, sk) : NULL;
	if (!st)
		return 0;
	if (old == TCP_ESTABLISHED)
		closing(sk, st);
	if (old == TCP_LISTEN && st->kind == LISTENER)
		listens_no_more(st->service);
	if (now == TCP_CLOSE) {
		give_back(st, k->slot);
		k->slot = 0;
		k->kind = 0;
	}
	return 0;
}

/* A reset that no socket sends answers a client who wanted what is not there. */
SEC("tp_btf/tcp_send_reset")
int BPF_PROG(refused, struct sock *sk, struct sk_buff *skb)
{
	struct place p = {};
	__u8 version = 0;
	__u16 port = 0;
	__u64 head, at;

	if (sk || !skb)
		return 0;
	head = (__u64)BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, network_header);
	if (bpf_probe_read_kernel(&version, 1, (void *)head))
		return 0;
	p.netns = BPF_CORE_READ(skb, dev, nd_net.net, ns.inum);
	p.family = AF_INET;
	if (version >> 4 == 4) {
		p.addr[10] = p.addr[11] = 0xff;
		bpf_probe_read_kernel(p.addr + 12, 4, (void *)(head + 16));
		at = head + (version & 15) * 4;
	} else {
		bpf_probe_read_kernel(p.addr, 16, (void *)(head + 24));
		at = head + 40; /* a SYN with extension headers is rare */
	}
	bpf_probe_read_kernel(&port, sizeof(port), (void *)(at + 2));
	p.port = bpf_ntohs(port);
	if (is_port(p.port))
		refuses(find(&p));
	return 0;
}

/* ---------------------------------------------------------- the walks */

/* write tells; false: the buffer is full. Nothing may have changed by then: the
 * next walk tells it. */
static __always_inline bool write(struct told *t)
{
	if (bpf_ringbuf_output(&flight, t, sizeof(*t), BPF_RB_NO_WAKEUP))
		return false;
	walk_told++;
	return true;
}

/* is_gone tells whether a socket is no more: its memory is free, or another's. */
static __always_inline bool is_gone(struct sock *sk, struct state *st)
{
	return BPF_CORE_READ(sk, __sk_common.skc_cookie.counter) != (__s64)st->cookie ||
	       !BPF_CORE_READ(sk, __sk_common.skc_refcnt.refs.counter);
}

/* queued tells how long the first in a Unix listener's queue has waited. */
static __always_inline void queued(struct sock *sk, struct state *st, struct service *s)
{
	__u32 n = BPF_CORE_READ(sk, sk_receive_queue.qlen), back;
	struct told t = {};
	__u64 since;

	if (!n) {
		if (!st->began)
			return;
		/* Told until now. */
		fill(&t, sk, st, s);
		t.kind = ACCEPT;
		t.how = TAKEN_UP;
		t.done = walk_at;
		t.accepted = s->touched;
		if (write(&t))
			st->began = 0;
		return;
	}
	back = n < QUEUE ? n : QUEUE;
	if (back > s->connects)
		return; /* it was there when we came */
	since = s->connected[(s->connects - back) % QUEUE];
	if (walk_at < since || walk_at - since < s->least)
		return;
	if (n > QUEUE && st->began)
		since = st->began;
	if (st->began && since != st->began) {
		fill(&t, sk, st, s);
		t.kind = ACCEPT;
		t.how = TAKEN_UP;
		t.done = walk_at;
		t.accepted = s->touched;
		if (!write(&t))
			return;
	}
	st->began = since;
	fill(&t, sk, st, s);
	t.kind = ACCEPT;
	t.how = QUEUED;
	t.queue = n;
	write(&t);
}

#define TURNS 16

/* look tells of one socket; it is the callback of bpf_loop. */
static long look(__u32 i, __u32 *from)
{
	__u32 slot = *from + i, n;
	__u64 now = walk_at, since, age;
	struct service *s;
	struct told t = {};
	struct state *st;
	struct sock *sk;
	__u16 family;

	st = bpf_map_lookup_elem(&states, &slot);
	if (!st || !st->sk)
		return 0;
	sk = (struct sock *)st->sk;
	if ((st->began || (!st->accepted && st->opened) || st->kind == LISTENER || (slot + walk_turn) % TURNS == 0) && is_gone(sk, st)) {
		give_back(st, slot);
		return 0;
	}
	s = service_of(st->service);
	if (!s)
		return 0;
	if (s->seen + 1000000000 < now)
		s->seen = now;
	if (walk_told >= walk_most)
		return 0;
	if (st->kind == LISTENER) {
		if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_UNIX)
			queued(sk, st, s);
		return 0;
	}
	if (!st->began && (st->accepted || !st->opened))
		return 0;
	if (BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_ESTABLISHED)
		return 0;
	if (st->kind == CLIENT) {
		t.kind = REPLY;
		since = st->began;
		n = 0;
		goto late;
	}
	if (!st->accepted && st->opened) {
		since = st->opened;
		t.kind = ACCEPT;
		if (BPF_CORE_READ(sk, sk_socket)) {
			if (st->tell) {
				fill(&t, sk, st, s);
				t.kind = ACCEPT;
				t.how = TAKEN_UP;
				t.began = since;
				t.done = now;
				if (!write(&t))
					return 0;
			}
			st->tell = 0;
			st->accepted = now;
			return 0;
		}
		n = unread(sk);
		goto late;
	}
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (family == AF_UNIX && BPF_CORE_READ(sk, sk_shutdown) & RCV_SHUTDOWN) {
		if (st->tell) {
			fill(&t, sk, st, s);
			t.kind = st->read ? ANSWER : RECEIVE;
			t.how = CLOSED;
			t.done = now;
			if (!write(&t))
				return 0;
		}
		st->began = 0;
		st->tell = 0;
		return 0;
	}
	since = st->began;
	/* What the kernel holds is true; not every way of reading is seen. */
	n = unread(sk);
	if (!st->read && !n && since < now) {
		if (family == AF_UNIX) {
			st->began = 0;
			return 0;
		}
		st->read = now;
	}
	if (st->read && !n)
		st->later = 0;
	else if (st->read && !st->later && !st->looked)
		st->later = now;
	t.kind = st->read && !st->later ? ANSWER : RECEIVE;
	if (t.kind == ANSWER && family != AF_UNIX && BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP &&
	    (__s32)(BPF_CORE_READ((struct tcp_sock *)sk, lsndtime) - st->jiffies) > 0) {
		/* It was answered in a way, or at a moment, that no event told of. */
		if (st->tell) {
			fill(&t, sk, st, s);
			t.kind = ANSWER;
			t.how = CLOSED;
			t.done = now;
			if (!write(&t))
				return 0;
		}
		st->began = 0;
		st->tell = 0;
		return 0;
	}
	if (st->read && st->later)
		since = st->later;
late:
	age = now - since;
	if ((__s64)age < 0 || age < s->least || now < st->tell)
		return 0;
	__u8 kind = t.kind;
	fill(&t, sk, st, s);
	t.kind = kind;
	t.how = IN_FLIGHT;
	t.began = since;
	t.unread = n;
	if (write(&t))
		st->tell = now + (age > 720000000 ? age / 16 : 45000000);
	return 0;
}

/* The arguments are the first slot, and how many: 0 and 0 begin a walk. It
 * returns how many slots there are to look at. */
SEC("raw_tracepoint/walk")
int walk(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 from = ctx->args[0], n = ctx->args[1];

	if (!n) {
		walk_at = bpf_ktime_get_ns();
		walk_told = 0;
		walk_turn++;
		return taken + 1;
	}
	bpf_loop(n, look, &from, 0);
	return 0;
}

/* Those that listened before we came. */
SEC("iter/tcp")
int find_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	struct sock *sk;

	if (!skc || skc->skc_state != TCP_LISTEN)
		return 0;
	sk = (struct sock *)bpf_skc_to_tcp_sock(skc);
	if (sk)
		listen_at(sk);
	return 0;
}

SEC("iter/unix")
int find_unix(struct bpf_iter__unix *ctx)
{
	struct sock *sk = (struct sock *)ctx->unix_sk;

	if (sk && sk->sk_type == SOCK_STREAM && sk->__sk_common.skc_state == TCP_LISTEN)
		listen_unix(sk);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
