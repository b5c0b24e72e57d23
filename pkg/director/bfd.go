package director

import (
	"net/netip"
	"time"
)

// BFDStatus is how a BFD session of this host stands.
type BFDStatus struct {
	Session        string        `json:"session"`
	Neighbour      netip.Addr    `json:"neighbour"`
	IsUp           bool          `json:"up"`
	State          string        `json:"state"` // "up", "init", "down"
	Since          time.Time     `json:"since"` // in this state
	Reason         string        `json:"reason,omitempty"`
	Diagnostic     string        `json:"diagnostic"`      // of this side, in RFC 5880's words
	NeighbourState string        `json:"neighbour_state"` // as it says itself
	Downs          uint64        `json:"downs"`           // times that it was up and then not
	Interval       time.Duration `json:"interval_ns"`     // between packets that are sent
	Detection      time.Duration `json:"detection_ns"`    // how long the neighbour may be silent; 0: it has not been heard
}

// bfdStatus is nil without BFD sessions of the file.
func (d *Director) bfdStatus() []BFDStatus {
	if d.opt.BFD == nil {
		return nil
	}
	return d.opt.BFD()
}
