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
	BPF_F_CLONE = 1 << 9,
};

/* include/net/sock.h, include/net/af_unix.h, include/linux/tcp.h */
struct ns_common {
	unsigned int inum;
} READS;

struct net {
	struct ns_common ns;
} READS;

typedef struct {
	struct net *net;
} READS possible_net_t;

struct in6_addr {
	__u8 in6[16];
};

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
} READS;

struct sk_buff_head {
	__u32 qlen;
} READS;

struct upid {
	int nr;
} READS;

struct pid {
	struct upid numbers[1];
} READS;

struct socket;

struct sock {
	struct sock_common __sk_common;
	struct sk_buff_head sk_receive_queue;
	struct socket *sk_socket;
	__u16 sk_protocol;
	__u16 sk_type;
	__u8 sk_shutdown;
	struct pid *sk_peer_pid;
} READS;

struct tcp_sock {
	__u32 rcv_nxt;
	__u32 copied_seq;
	__u32 lsndtime; /* jiffies */
} READS;

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
struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 seq_num;
} READS;

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct sock *sk;
	void *value;
} READS;

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
} READS;

struct bpf_iter__unix {
	struct bpf_iter_meta *meta;
	struct unix_sock *unix_sk;
} READS;

#endif
