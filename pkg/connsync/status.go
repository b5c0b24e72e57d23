package connsync

// Status is what connection sync does, for people and metrics.
type Status struct {
	Peers []PeerStatus `json:"peers,omitempty"` // directors that run lvx
	Key   string       `json:"key,omitempty"`   // name of the key that this host signs with
	Wire  *WireStatus  `json:"wire,omitempty"`  // directors that run kernel IPVS, nil: there are none

	// Daemons are what ipvsadm --start-daemon runs.
	Daemons []WireStatus `json:"daemons,omitempty"`
}

// Wires are all wires that kernel IPVS speaks on.
func (s *Status) Wires() []WireStatus {
	if s.Wire == nil {
		return s.Daemons
	}
	return append([]WireStatus{*s.Wire}, s.Daemons...)
}

// WireStatus is what is known of the wire that kernel IPVS speaks on. Nobody
// acknowledges anything there: only what is heard can be counted.
type WireStatus struct {
	SyncID    uint8  `json:"syncid"`
	Sends     bool   `json:"sends"` // this host is master
	Hears     bool   `json:"hears"` // this host is backup
	Fault     string `json:"fault,omitempty"`
	Sent      uint64 `json:"sent"`      // records
	Received  uint64 `json:"received"`  // records
	Rejected  uint64 `json:"rejected"`  // records that the table did not take
	Malformed uint64 `json:"malformed"` // datagrams
	Foreign   uint64 `json:"foreign"`   // datagrams of another syncid
	Dropped   uint64 `json:"dropped"`   // records that came beyond what is taken
	Unsent    uint64 `json:"unsent"`    // records that there was no room for
}

// Status reports on the wire.
func (w *Wire) Status() *WireStatus {
	st := &WireStatus{
		SyncID: w.o.SyncID, Sends: w.sends.Load(), Hears: w.hears.Load(),
		Sent: w.counts.Sent.Load(), Received: w.counts.Received.Load(), Rejected: w.counts.Rejected.Load(),
		Malformed: w.counts.Malformed.Load(), Foreign: w.counts.Foreign.Load(), Dropped: w.counts.Dropped.Load(),
		Unsent: w.counts.Unsent.Load(),
	}
	if err := w.Err(); err != nil {
		st.Fault = err.Error()
	}
	return st
}
