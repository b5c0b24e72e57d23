package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/neigh"
	"github.com/lvx-lb/lvx/pkg/vip"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// claims finds out who has a VIP before this host takes it: a VIP that a
// stranger answers for is withheld, it alone, until the stranger does not any
// more. A real server or a peer that answers is a mistake to be told, and no
// reason not to serve.
type claims struct {
	findOwner func(ctx context.Context, iface string, addr netip.Addr) (neigh.MAC, bool, error)
	addrsOf   func(neigh.MAC) []netip.Addr // servers and peers at a MAC
	warnings  *warnings.Registry
	log       *slog.Logger
	changed   func() // a VIP may be taken now

	mu       sync.Mutex
	hasEnded bool
	wanted   map[vip.Place]bool
	free     map[vip.Place]bool // asked about, and no stranger has it
	asking   map[vip.Place]bool
	first    map[vip.Place]bool // asked about for the first time, no answer yet
	slots    chan struct{}      // one for each question at a time
	allAsked chan struct{}      // closed once every VIP that was wanted at first has been asked about
}

// Limits and kinds of claims.
const (
	claimPause    = time.Second      // between questions about a VIP that a stranger has
	claimTimeout  = 2 * time.Second  // for a question: two probes take 300 ms
	answeredPause = 10 * time.Second // between questions about one that a real answers for
	maxClaims     = 256              // questions at a time
	vipAnswered   = "vip-answered"   // a real or a peer answers for it
)

func newClaims(addrsOf func(neigh.MAC) []netip.Addr, w *warnings.Registry, log *slog.Logger) *claims {
	return &claims{
		findOwner: neigh.FindOwner, addrsOf: addrsOf, warnings: w, log: log,
		wanted: map[vip.Place]bool{}, free: map[vip.Place]bool{}, asking: map[vip.Place]bool{}, first: map[vip.Place]bool{},
		slots: make(chan struct{}, maxClaims), allAsked: make(chan struct{}),
	}
}

// filter returns the VIPs that may be on this host: those that are there
// already (missing lacks them), those that are forced, and those that no
// stranger has. It has the others asked about, and calls changed when that has
// led to something.
func (c *claims) filter(want, missing []vip.Place, isForced func(netip.Addr) bool) (may []vip.Place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hasEnded {
		return without(want, missing)
	}
	isMissing := make(map[vip.Place]bool, len(missing))
	for _, p := range missing {
		isMissing[p] = true
	}
	c.forgetOthers(want)
	for _, p := range want {
		switch {
		case !isMissing[p], isForced(p.Address), c.free[p]:
			may = append(may, p)
			c.free[p] = true // and if it is taken away, it comes back at once
			c.warnings.End(director.VIPTaken, subject(p))
		case !c.asking[p]:
			c.asking[p], c.first[p] = true, true
			go c.ask(p)
		}
	}
	c.settleIfDone()
	return may
}

// end has nobody asked any more, and changed not called.
func (c *claims) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hasEnded, c.wanted = true, nil
}

// forgetOthers makes want what is wanted.
func (c *claims) forgetOthers(want []vip.Place) {
	now := make(map[vip.Place]bool, len(want))
	for _, p := range want {
		now[p] = true
	}
	for p := range c.wanted {
		if !now[p] {
			delete(c.free, p)
			delete(c.first, p)
			c.warnings.End(director.VIPTaken, subject(p))
			c.warnings.End(vipAnswered, subject(p))
		}
	}
	c.wanted = now
}

func subject(p vip.Place) string { return "VIP " + p.String() }

// settleIfDone closes settled once nothing is asked about for the first time.
func (c *claims) settleIfDone() {
	if len(c.first) > 0 {
		return
	}
	select {
	case <-c.allAsked:
	default:
		close(c.allAsked)
	}
}

// ask asks who has a VIP, again and again as long as the answer matters.
func (c *claims) ask(p vip.Place) {
	for {
		pause := c.askOnce(p)
		if pause == 0 {
			return
		}
		time.Sleep(pause)
	}
}

// askOnce returns after how long to ask again; 0 is never.
func (c *claims) askOnce(p vip.Place) time.Duration {
	c.slots <- struct{}{}
	defer func() { <-c.slots }()
	ctx, cancel := context.WithTimeout(context.Background(), claimTimeout)
	defer cancel()
	mac, found, err := c.findOwner(ctx, p.Interface, p.Address)
	if err != nil { // the interface is down, for example: no station can be in the way
		c.log.Debug("no station can be asked who has the VIP", "vip", p, "err", err)
	}
	known := c.addrsOf(mac)
	taken := found && len(known) == 0
	defer c.noteAsked(p) // after the answer has had its effect
	switch wanted, news := c.note(p, taken, found); {
	case !wanted:
		return 0
	case taken:
		c.warnings.Put(warnings.Warning{
			Kind: director.VIPTaken, Subject: subject(p), Text: "withheld: another host (" + mac.String() + ") has it",
			Cure: "take it off that host; `claim: force` in the service takes it all the same",
		})
		return claimPause
	case found:
		c.warnings.Put(warnings.Warning{
			Kind: vipAnswered, Subject: subject(p), Text: fmt.Sprintf("%s (%s) answers %s for it", joinAddrs(known), mac, neigh.Questions(p.Address)),
			Cure: cureOfAnswers(p.Address),
		})
		if news {
			c.changed()
		}
		return answeredPause
	case news:
		c.warnings.End(director.VIPTaken, subject(p))
		c.changed()
	}
	c.warnings.End(vipAnswered, subject(p))
	return 0
}

// cureOfAnswers is what to do on a real server that answers for a VIP.
func cureOfAnswers(vip netip.Addr) string {
	if vip.Is6() {
		return "take it off every interface there but lo: lvx real status --vip " + vip.String() + " names it"
	}
	return "suppress ARP there: lvx real up --vip " + vip.String()
}

// note takes an answer down. It reports whether the VIP is still wanted, and
// whether it is free only since now.
func (c *claims) note(p vip.Place, taken, found bool) (wanted, news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wanted = c.wanted[p]
	if wanted && !taken {
		news = !c.free[p]
		c.free[p] = true
	}
	if !wanted || !taken && !found {
		delete(c.asking, p)
	}
	return wanted, news
}

// noteAsked remembers that a VIP has been asked about.
func (c *claims) noteAsked(p vip.Place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.first, p)
	c.settleIfDone()
}

func joinAddrs(addrs []netip.Addr) string {
	var words []string
	for _, a := range addrs {
		words = append(words, a.String())
	}
	return strings.Join(words, ", ")
}
