/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The family that this program is compiled for. Each of them has the same
 * functions: parse_header, is_martian, identify_flow, template_key, and what
 * else the steps of the long way call.
 */
#pragma once

#ifdef LVX_IPV6
#include "ipv6.h"
#else
#include "ipv4.h"
#endif
