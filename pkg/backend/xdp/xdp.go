package xdp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Neighbor says how frames reach an address on the segment.
type Neighbor struct {
	MAC     [6]byte // the host's
	Source  [6]byte // of the interface they leave by
	IfIndex int
	Device  string
	MTU     int
	From    netip.Addr // of this host: what an outer header to the address has as source
	Gateway netip.Addr // the router that the address is behind, whose MAC it is; zero if it is on the segment
	Local   bool       // the address is this host's
	Err     string     // why it cannot be reached, "" if it can
	Pending bool       // with Err: only because it is still being asked
	OwnLink bool       // with Err: through no fault of the address, but because of this host's link
}

// Neighbors answers from what is known now; it never waits.
type Neighbors interface {
	Lookup(netip.Addr) Neighbor
	// Version is another number once an answer may have changed.
	Version() uint64
	// Routes are the host's routes of IPv4, the longest prefixes first. Where
	// they end, or name no gateway, the kernel has to be asked.
	Routes() []Route
}

// Route is a part of the host's routes, the way of replies by NAT.
type Route struct {
	To      netip.Prefix
	Gateway netip.Addr // zero: the clients themselves are on a segment of this host
	MTU     int        // that the route says; 0: that of the way to the next hop
}

// Options say where the packet path runs.
type Options struct {
	Log         *slog.Logger
	Interfaces  []string
	Mode        loader.Mode
	CannotSend  func(iface string) error // see [loader.Options]
	Echoes      []netip.Addr             // who is asked for a proof of native mode: Neighbors of [loader.Options]
	VLANs       func() []loader.VLAN     // see [loader.Options]; with CannotServe
	CannotServe func(loader.VLAN) error
	PinDir      string
	Flows       int // connections that are guaranteed a place
	Templates   int
	IPv6        bool        // serve IPv6 too, in tables as large again
	Room        loader.Room // for reals and rings, to begin with; none: as much as there can be
	Neighbors   Neighbors
	Detached    bool // see [loader.Options]; nothing is swept then
	NoSweeper   bool // tests sweep by hand
	StillClock  bool // tests move the clock by hand
	PiecesFrom  int  // for tests, see [loader.Options]

	// Injected by tests: an error from here fails the named step.
	fail func(step string) error
}

// Backend is the XDP data path. Its methods may be called from any
// goroutine.
type Backend struct {
	log          *slog.Logger
	dp           *loader.Datapath
	neigh        Neighbors
	fail         func(step string) error
	grace        func()         // waits until no packet uses what it read before
	graceRunning sync.WaitGroup // the grace of what was published last

	growing sync.RWMutex // while the tables of reals and rings become others: for whoever reads them without mu

	mu            sync.Mutex
	state         lb.State
	applied       bool
	applies       uint64    // applies so far, with those that failed
	revision      uint64    // of VIPs and ports: another number, others
	laid          [2]uint64 // the revision that each half has; 0: none that is known
	neighVersion  uint64    // the neighbours' version that the services are settled by
	services      map[string]*service
	order         []*service // of the state applied last
	byIndex       [bpf.Services]*service
	freeIndex     int // no index below is free
	numbers       numbers
	rings         arena
	slots         slots
	persistent    bool   // some service is or was: there may be templates
	ringsToRetire []span // ring lines that the half in force still names
	ringsInGrace  []span // ring lines that packets may still be reading
	filters       map[bpf.FilterKey]bpf.FilterAction
	sweep         sweeper
	telling       sync.Mutex          // taken before mu: nothing older is told behind anything newer
	news          *news               // what peers are told, nil without connection sync
	views         *peerViews          // what peers know and have told, nil before the first
	hasRows       bool                // some service is or was stateless
	hasNAT        bool                // some real is or was by NAT: there may be replies
	formerReplies map[bpf.Reply]int   // see keepReplies
	hasWays       bool                // some reply may leave by a VLAN
	ipv6          bool                // the program of IPv6 is there: services of IPv6 are taken
	pen           pen                 // entries of peers that wait for an edit
	absorbedKinds []absorbedKind      // room for the kinds of what is absorbed
	tookUnsigned  bool                // entries were absorbed whose sender has not proven who that is
	toldRows      map[string]toldRows // rows of peers that wait for it, by service
	listeners     *listenerIndex      // see index
	frags         *holder

	stop context.CancelFunc
	done sync.WaitGroup
}

// Callers ask for these by type assertion, which fails silently.
var (
	_ lb.Backend  = (*Backend)(nil)
	_ lb.Leaser   = (*Backend)(nil)
	_ lb.Switcher = (*Backend)(nil)
	_ lb.Tracer   = (*Backend)(nil)
	_ lb.Binder   = (*Backend)(nil)
)

// Open loads or adopts the packet path. A predecessor's connections live on.
func Open(ctx context.Context, o Options) (*Backend, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	dp, err := loader.Open(ctx, loader.Options{
		Log: o.Log, PinDir: o.PinDir, Interfaces: o.Interfaces, Mode: o.Mode, CannotSend: o.CannotSend, Neighbors: o.Echoes,
		VLANs: o.VLANs, CannotServe: o.CannotServe,
		Flows: o.Flows, Templates: o.Templates, IPv6: o.IPv6, Room: o.Room, StillClock: o.StillClock, PiecesFrom: o.PiecesFrom, Detached: o.Detached,
	})
	if err != nil {
		return nil, err
	}
	b := newBackend(dp, o)
	own, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	if o.NoSweeper || o.Detached {
		return b, nil
	}
	if b.frags, err = newHolder(b); err != nil {
		cancel()
		_ = dp.Close(true)
		return nil, err
	}
	b.done.Go(func() { b.runSweeper(own) })
	b.done.Go(func() { b.frags.run(own) })
	for _, is6 := range []bool{false, true} {
		switch relay, err := newErrorRelay(b, is6); {
		case err == nil:
			b.done.Go(func() { relay.run(own) })
		case !is6 || !errors.Is(err, unix.EAFNOSUPPORT): // without IPv6 there is no such tunnel
			b.log.Warn("clients will not hear of errors about tunnels", "IPv6", is6, "err", err)
		}
	}
	return b, nil
}

// newBackend reads what a predecessor left in the tables.
func newBackend(dp *loader.Datapath, o Options) *Backend {
	b := &Backend{
		log: o.Log.With("component", "xdp"), dp: dp, neigh: o.Neighbors, grace: loader.Grace, ipv6: o.IPv6,
		services: map[string]*service{}, revision: 1, fail: o.fail,
		filters: map[bpf.FilterKey]bpf.FilterAction{},
	}
	if b.fail == nil {
		b.fail = func(string) error { return nil }
	}
	b.rings.init(len(dp.Rings))
	b.slots.init(len(dp.Reals))
	b.numbers.init()
	if dp.Settings.Answers == 0 {
		dp.Settings.Answers = answersPerSecond
	}
	b.adopt()
	b.graceRunning.Go(b.grace) // a predecessor may have published a moment ago
	return b
}

// answersPerSecond bounds ICMP answers of one CPU, as net.ipv4.icmp_msgs_per_sec
// bounds the kernel's.
const answersPerSecond = 1000

// Close stops serving. With keep the packet path runs on for a successor.
func (b *Backend) Close(keep bool) error {
	b.stop()
	b.done.Wait()
	b.graceRunning.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.frags != nil {
		b.frags.close()
	}
	return b.dp.Close(keep)
}

// Datapath gives tests and benchmarks the tables themselves.
func (b *Backend) Datapath() *loader.Datapath { return b.dp }

// Renew lets a lease live for d from now; d <= 0 ends it at once.
func (b *Backend) Renew(id uint32, d time.Duration) error {
	if id >= uint32(len(b.dp.Leases)) {
		return fmt.Errorf("lease %d: out of range (at most %d VRRP instances)", id, len(b.dp.Leases))
	}
	if d <= 0 {
		store64(&b.dp.Leases[id], 0)
		return nil
	}
	until, err := b.jiffiesIn(d)
	if err == nil {
		store64(&b.dp.Leases[id], until)
	}
	return err
}

// ExpectNews implements [connsync.Backend].
func (b *Backend) ExpectNews(d time.Duration) error {
	until, err := b.jiffiesIn(d)
	if err == nil {
		store64(b.dp.Takeover, until)
	}
	return err
}

// jiffiesIn is the time on the kernel's clock at which d from now is over.
func (b *Backend) jiffiesIn(d time.Duration) (uint64, error) {
	now, err := b.dp.Jiffies()
	return now + uint64(d)*loader.HZ()/uint64(time.Second) + 1, err
}

// Switch implements [lb.Switcher]: one bit of each VIP, in the half in force.
func (b *Backend) Switch(vips []lb.VIP) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.applied {
		return errors.New("roles: nothing was applied yet")
	}
	b.state.VIPs = vips
	standby := b.state.StandbyVIPs()
	half := b.dp.Settings.Half & 1
	b.laid[1-half] = 0
	lines := b.dp.VIPs[half*bpf.VIPLines : (half+1)*bpf.VIPLines]
	for i := range lines {
		for w := range lines[i].Way {
			v := &lines[i].Way[w]
			if v.TCP|v.UDP == 0 {
				continue
			}
			flags := v.Flags &^ bpf.VIPStandby
			if standby[v.Addr.Addr()] {
				flags |= bpf.VIPStandby
			}
			if flags != v.Flags {
				v.Flags = flags // packets see it one way or the other
			}
		}
	}
	return nil
}

// LeaseLeft implements [lb.Leaser].
func (b *Backend) LeaseLeft(id uint32) time.Duration {
	now, err := b.dp.Jiffies()
	if err != nil || id >= uint32(len(b.dp.Leases)) {
		return 0
	}
	until := load64(&b.dp.Leases[id])
	if until <= now {
		return 0
	}
	return time.Duration((until - now) * uint64(time.Second) / loader.HZ())
}
