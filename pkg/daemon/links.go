package daemon

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/lvx-lb/lvx/pkg/vip"
)

// linkState is what the packet path knows of an interface: it has to be told
// when that changes.
type linkState struct {
	index, mtu int
	mac        string
	program    uint32 // that is attached; 0: none
}

// linkSettleTime bounds how long an announcement waits for the packet path,
// linkPause is the time between two looks at links that change again and again.
const (
	linkSettleTime = time.Second
	linkPause      = time.Second
)

// linkWatch has the packet path follow its interfaces: one that was made anew,
// that has another MAC or MTU, or whose program somebody has taken off.
type linkWatch struct {
	interfaces []string
	read       func(interfaces []string) map[string]linkState
	watch      func(ctx context.Context, call func()) error
	follow     func(ctx context.Context) error // the packet path does
	log        *slog.Logger

	mu         sync.Mutex
	known      map[string]linkState
	hadProgram map[string]bool // interfaces that had a program when they were followed last
	followed   time.Time
}

func newLinkWatch(interfaces []string, log *slog.Logger) *linkWatch {
	return &linkWatch{interfaces: interfaces, read: readLinkStates, watch: vip.Watch, hadProgram: map[string]bool{}, log: log.With("component", "links")}
}

// readLinkStates reads what interfaces are like; those that are not there are left out.
func readLinkStates(interfaces []string) map[string]linkState {
	states := map[string]linkState{}
	for _, name := range interfaces {
		link, err := netlink.LinkByName(name)
		if err != nil {
			continue
		}
		at := link.Attrs()
		s := linkState{index: at.Index, mtu: at.MTU, mac: at.HardwareAddr.String()}
		if at.Xdp != nil && at.Xdp.Attached {
			s.program = at.Xdp.ProgId
		}
		states[name] = s
	}
	return states
}

// settle returns when the packet path knows the interfaces as they are.
func (l *linkWatch) settle(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.read(l.interfaces); maps.Equal(now, l.known) {
		return
	}
	select {
	case <-time.After(time.Until(l.followed.Add(linkPause))):
	case <-ctx.Done():
		return
	}
	before := l.read(l.interfaces)
	if err := l.follow(ctx); err != nil {
		l.log.Debug("the packet path does not follow an interface", "err", err) // the director says it, and tries again
	}
	l.know(before, l.read(l.interfaces))
	l.followed = time.Now()
}

// know notes what the packet path has followed: interfaces as they were before, but for
// its program. What has changed meanwhile is still to be followed, also a program that
// somebody has taken off again; one that the packet path itself took off, once more.
func (l *linkWatch) know(before, after map[string]linkState) {
	l.known = map[string]linkState{}
	for name, s := range before {
		s.program = after[name].program
		isTakenOff := s.program == 0 && l.hadProgram[name]
		l.hadProgram[name] = s.program != 0
		if !isTakenOff {
			l.known[name] = s
		}
	}
}

// settleBefore has announcements of an interface wait for the packet path: who
// hears them sends to the new MAC.
func (l *linkWatch) settleBefore(ctx context.Context, iface string) {
	if !slices.Contains(l.interfaces, iface) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, linkSettleTime)
	defer cancel()
	l.settle(ctx)
}

// run follows the interfaces until ctx ends.
func (l *linkWatch) run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-changed:
				l.settle(ctx)
			case <-ctx.Done():
				return
			}
		}
	}()
	err := l.watch(ctx, func() {
		select {
		case changed <- struct{}{}:
		default: // it will look
		}
	})
	if err != nil {
		l.log.Warn("interfaces are looked after every ten seconds only", "err", err)
	}
	<-done
	return nil
}
