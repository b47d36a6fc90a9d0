/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/types.h>

#include "export.h"

/* A socket was made, by whom; or released. */
struct socket_event {
	__u64 cookie;
	__u64 cgroup_id; /* of the process, in the unified hierarchy */
	__u64 mono_ns;
	__u32 pid; /* in the initial PID namespace */
	__u32 tid;
	__u8 command[16]; /* of the thread */
	__u8 released; /* 1: the last descriptor is gone; nothing else but cookie and time is set */
	__u8 _pad[7];
};
_Static_assert(sizeof(struct socket_event) == 56, "socket_event is ABI");
ABI_TYPE(struct, socket_event);
