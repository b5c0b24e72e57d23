/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Neighbour solicitations for a VIP that must not be answered now (RFC 4861). */
#pragma once

#include "admit.h"

/*
 * Frames that are not balanced go to the kernel, but for one kind: a
 * solicitation of a VIP while another director owns it, or after the lease ran
 * out. The kernel would answer as long as the address is on any interface, and
 * two hosts would.
 */
static __always_inline int pass_or_silence(struct run *r, int verdict)
{
	struct solicitation *ask = find_solicitation(r->data, r->end);
	struct addresses6 *a = get_addresses();

	if (!a || !ask)
		return PASS(verdict);
	a->network = ask->target;
	return is_silent(r->s, &a->network) ? DROP(VERDICT_ARP_SILENCED) : PASS(verdict);
}
