/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include "export.h"
#include "flow_key.h"
#include "flow_stats.h"

/* One packet that the flow map could not take, sent through the ring buffer unaggregated. */
struct flow_record {
	struct flow_key key;
	struct flow_stats stats;
	__u32 map_errno; /* why the map refused: E2BIG full, EBUSY and others busy */
	__u8 _pad[4];
};
_Static_assert(sizeof(struct flow_record) == 120, "flow_record is ABI");
ABI_TYPE(struct, flow_record);
