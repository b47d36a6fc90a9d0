/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/types.h>

#include "export.h"

/* The socket that sent the first packet of a flow since the last drain. */
struct flow_owner {
	__u64 cookie;        /* of the socket; the kernel gives none twice */
	__u64 cgroup_id;     /* of the socket's cgroup in the unified hierarchy */
	__u64 first_mono_ns; /* flow_stats.first_mono_ns: which of the flow's entries it is */
};
_Static_assert(sizeof(struct flow_owner) == 24, "flow_owner is ABI");
ABI_TYPE(struct, flow_owner);
