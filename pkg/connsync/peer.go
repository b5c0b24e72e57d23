package connsync

import (
	"errors"
	"net/netip"
	"sync"
	"time"
)

// peer is one of the other directors.
type peer struct {
	addr  netip.Addr
	local netip.Addr

	mu      sync.Mutex
	session *session // nil: none
	since   time.Time
	err     error // why there is none
	theirs  []Digest
	old     counts // of sessions that have ended
	isBusy  bool   // a handshake from its address is under way
}

type counts struct{ sent, received, rejected uint64 }

// PeerStatus is what is known of a peer.
type PeerStatus struct {
	Peer     netip.Addr    `json:"peer"`
	IsUp     bool          `json:"up"`                // a session stands
	IsInSync bool          `json:"in_sync"`           // what the peer had when the session began has been absorbed whole
	Since    time.Time     `json:"since"`             // of the session, or of its end
	Reason   string        `json:"reason,omitempty"`  // why there is no session
	Cure     string        `json:"cure,omitempty"`    // what to do, where the reason is not that the peer cannot be reached
	Sent     uint64        `json:"sent"`              // entries, since the start
	Received uint64        `json:"received"`          // entries
	Rejected uint64        `json:"rejected"`          // entries that the table did not take
	Key      string        `json:"key,omitempty"`     // name of the key that the peer signs with
	Lag      time.Duration `json:"lag_ns"`            // 99th percentile from sending to the peer's acknowledgement
	Differs  []string      `json:"differs,omitempty"` // services that the peer holds differently
}

// refusal is why two directors that reach each other have no session.
type refusal struct{ why, cure string }

func (r refusal) Error() string { return r.why + " (" + r.cure + ")" }

func (p *peer) status(ours []Digest) PeerStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	total := p.old
	st := PeerStatus{Peer: p.addr, Since: p.since}
	if s := p.session; s != nil {
		st.IsUp, st.IsInSync, st.Lag = true, s.isInSync(), s.lag()
		st.Key = s.proof.name()
		total = total.plus(s)
		if p.theirs != nil {
			st.Differs = compareDigests(ours, p.theirs)
		}
	} else if p.err != nil {
		st.Reason = p.err.Error()
		var refused refusal
		if errors.As(p.err, &refused) {
			st.Reason, st.Cure = refused.why, refused.cure
		}
	}
	st.Sent, st.Received, st.Rejected = total.sent, total.received, total.rejected
	return st
}

func (c counts) plus(s *session) counts {
	return counts{c.sent + s.sent.Load(), c.received + s.received.Load(), c.rejected + s.rejected.Load()}
}

func (p *peer) current() *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.session
}

// claim lets one handshake per peer be under way: a flood of connections from
// its address holds one thread, not the process.
func (p *peer) claim() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isBusy {
		return false
	}
	p.isBusy = true
	return true
}

func (p *peer) setDigests(d []Digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.theirs = d
}

func (p *peer) begin(s *session) {
	p.mu.Lock()
	old := p.session
	if old != nil {
		p.old = p.old.plus(old)
	}
	p.session, p.since, p.err, p.theirs = s, time.Now(), nil, nil
	p.mu.Unlock()
	if old != nil {
		_ = old.conn.Close()
	}
}

// end reports whether s was the peer's session until now.
func (p *peer) end(s *session, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.session != s {
		return false
	}
	p.old = p.old.plus(s)
	p.session, p.since, p.err = nil, time.Now(), err
	return true
}
