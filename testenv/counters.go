package testenv

import "fmt"

// Counters are an interface's packet counters, as `ip -s link` shows them.
// Packets that XDP took or sent are counted too.
type Counters struct {
	RxPackets, RxBytes, RxDropped uint64
	TxPackets, TxBytes, TxDropped uint64
}

// Sub gives what happened since before.
func (c Counters) Sub(before Counters) Counters {
	return Counters{
		RxPackets: c.RxPackets - before.RxPackets,
		RxBytes:   c.RxBytes - before.RxBytes,
		RxDropped: c.RxDropped - before.RxDropped,
		TxPackets: c.TxPackets - before.TxPackets,
		TxBytes:   c.TxBytes - before.TxBytes,
		TxDropped: c.TxDropped - before.TxDropped,
	}
}

// Counters reads the counters of an interface.
func (h *Host) Counters(nic string) (Counters, error) {
	link, err := h.Netlink.LinkByName(nic)
	if err != nil {
		return Counters{}, fmt.Errorf("interface %s: %w", nic, err)
	}
	s := link.Attrs().Statistics
	if s == nil {
		return Counters{}, fmt.Errorf("interface %s: no counters", nic)
	}
	return Counters{
		RxPackets: s.RxPackets, RxBytes: s.RxBytes, RxDropped: s.RxDropped,
		TxPackets: s.TxPackets, TxBytes: s.TxBytes, TxDropped: s.TxDropped,
	}, nil
}
