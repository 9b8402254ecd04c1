/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What is read of sockets, as kernel.h.
 */
#ifndef FREEZEFRAME_SOCKETS_H
#define FREEZEFRAME_SOCKETS_H

#include "kernel.h"
#include <bpf/bpf_endian.h>

/* include/uapi/linux/bpf.h */
enum {
	BPF_MAP_TYPE_QUEUE = 22,
	BPF_MAP_TYPE_STACK = 23,
	BPF_F_CLONE = 1 << 9,
};

/* include/linux/tcp.h, include/net/af_unix.h */
struct tcp_sock {
	__u32 rcv_nxt;
	__u32 copied_seq;
	__u32 lsndtime; /* jiffies */
	__u32 snd_nxt;
} READS;

/* include/net/tcp.h: what sk_buff.cb holds while TCP looks at a segment. */
struct tcp_skb_cb {
	__u32 seq;
	__u32 end_seq;
};

struct sockaddr_un {
	unsigned short sun_family;
	char sun_path[108];
};

struct unix_address {
	int len;
	struct sockaddr_un name[0];
} READS;

struct unix_sock {
	struct unix_address *addr;
	struct sock *peer;
} READS;

/* include/linux/bpf.h */
struct bpf_raw_tracepoint_args {
	__u64 args[0];
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
} READS;

struct bpf_iter__unix {
	struct bpf_iter_meta *meta;
	struct unix_sock *unix_sk;
} READS;

#endif
