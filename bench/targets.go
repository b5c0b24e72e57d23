package main

// target is a bound on a ratio of two results.
type target struct {
	what  string
	over  string // what is measured
	under string // against what
	most  float64
}

// targets are what a change must not make worse. At 10 million flows the
// yardstick is slow too: most of both is two misses that nobody can avoid.
var targets = []target{
	{"established, 1 flow / floor B", "established/1", "floor_b/1", 0.55},
	{"established, 1M flows / floor B", "established/1M", "floor_b/1M", 0.38},
	{"established, 1M flows skewed / floor B", "established/1M_skewed", "floor_b/1M_skewed", 0.75},
	{"established, 10M flows / floor B", "established/10M", "floor_b/10M", 0.33},
	{"stateless mh, 1M flows / floor B", "stateless/1M_rows", "floor_b/1M_rows", 0.20},
	{"stateless mh, 10M flows / floor B", "stateless/10M_rows", "floor_b/10M_rows", 0.13},
	{"new SYN, full table / insert into a full LRU_HASH", "syn/full", "lru_insert", 0.6},
	{"new SYN, flooded table / insert into a full LRU_HASH", "syn/flooded", "lru_insert", 0.6},
	{"not ours: address / floor B, 1 flow", "not_ours/address", "floor_b/1", 0.8},
	{"not ours: port / floor B, 1 flow", "not_ours/port", "floor_b/1", 0.6},
	{"established IPv6, 1 flow / floor B of IPv6", "established6/1", "floor_b6/1", 0.60},
	{"established IPv6, 1M flows / floor B of IPv6", "established6/1M", "floor_b6/1M", 0.38},
	{"established IPv6, 10M flows / floor B of IPv6", "established6/10M", "floor_b6/10M", 0.38},
	{"new SYN of IPv6, full table / insert into a full LRU_HASH", "syn6/full", "lru_insert6", 0.6},
	{"IPIP, 1M flows / direct routing", "ipip/1M_ways", "dr/1M_ways", 1.12},
	{"IPIP, 1M flows / floor B", "ipip/1M_ways", "floor_b/1M_ways", 0.58},
	{"NAT from the client, 1M flows / direct routing", "nat_in/1M_ways", "dr/1M_ways", 1.15},
	{"NAT from the real, 1M flows / direct routing", "nat_out/1M_ways", "dr/1M_ways", 1.15},
	{"1,000 services x 12 / 1 service x 2", "services/1000x12", "services/1x2", 1.15},
}

// Check is a target and what came of it.
type Check struct {
	What  string  `json:"what"`
	Value float64 `json:"value"`
	Bound float64 `json:"bound"`
	Least bool    `json:"least"` // the value must be at least the bound, not at most
	OK    bool    `json:"ok"`
}

func atMost(what string, value, bound float64) Check {
	return Check{What: what, Value: value, Bound: bound, OK: value <= bound}
}

func atLeast(what string, value, bound float64) Check {
	return Check{What: what, Value: value, Bound: bound, Least: true, OK: value >= bound}
}

// checks compares results with the targets; those whose results are not all
// there are left out.
func checks(results []Result) []Check {
	median := map[string]float64{}
	for _, r := range results {
		median[r.Name] = r.Median
	}
	var out []Check
	for _, t := range targets {
		over, under := median[t.over], median[t.under]
		if over > 0 && under > 0 {
			out = append(out, atMost(t.what, over/under, t.most))
		}
	}
	return append(out, checkPairs(median)...)
}
