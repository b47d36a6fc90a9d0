/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/types.h>

/* A place in the linear data of a packet. */
struct cursor {
	void *at;
	void *end;
	__u32 left; /* octets on the wire from `at` to the end of the frame, linear or not */
	__u8 _pad[4];
};

/* Is the header of `size` octets at the cursor readable? */
static __always_inline int readable(const struct cursor *cursor, __u32 size)
{
	return cursor->at + size <= cursor->end;
}

static __always_inline void advance(struct cursor *cursor, __u32 size)
{
	cursor->at += size;
	cursor->left -= size;
}
