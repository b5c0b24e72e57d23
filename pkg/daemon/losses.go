package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lvx-lb/lvx/loader/losses"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/hostinfo"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// framesLost is the kind of warning that a driver has lost frames of XDP, and
// lossesUnknown that nobody would see it.
const (
	framesLost    = "frames-lost"
	lossesUnknown = "losses-unknown"
)

// lossPeriod is the time between two looks, lossMemory how long a loss is warned
// of.
const (
	lossPeriod = 5 * time.Second
	lossMemory = time.Minute
)

// lossWatch knows what the drivers of the interfaces have lost of what the packet
// path has sent.
type lossWatch struct {
	interfaces []string
	kernel     func() ([]losses.Count, error)                // nil: the kernel does not say
	driver     func(iface string) (map[string]uint64, error) // what it says itself
	close      func() error                                  // of kernel
	warnings   *warnings.Registry
	log        *slog.Logger

	// sentBack counts the frames that XDP has sent back by the interface that they
	// came in by. giveUp is called where nearly all of them are lost; nil: native
	// mode is not in force, or not to be given up.
	sentBack func() (uint64, error)
	giveUp   func(ctx context.Context, lost, sent uint64)

	before  *balance // at the last look that could be taken; nil: there was none
	mu      sync.Mutex
	said    map[string]map[string]uint64 // by the driver, when it was asked last
	total   map[string]uint64            // by interface, at the last look
	lastOne map[string]time.Time         // when that had grown
}

// watchLosses begins to count. Nothing of it is needed to serve.
func watchLosses(cfg *config.Config, w *warnings.Registry, log *slog.Logger) *lossWatch {
	devices := programDevices(cfg)
	l := &lossWatch{
		interfaces: devices, driver: hostinfo.DriverErrors, warnings: w, log: log.With("component", "losses"),
		said: map[string]map[string]uint64{}, total: map[string]uint64{}, lastOne: map[string]time.Time{},
	}
	watch, err := losses.Open(cfg.PinDir, devices)
	if err != nil {
		w.Put(warnings.Warning{
			Kind: lossesUnknown, Subject: "packet path", Text: "frames that drivers lose are not counted by the kernel's tracepoints: " + err.Error(),
			Note: true,
		})
		return l
	}
	l.kernel, l.close = watch.Counts, watch.Close
	return l
}

// forDirector is what the director asks.
func (l *lossWatch) forDirector() func() []director.Loss {
	if l == nil {
		return nil
	}
	return l.list
}

// list implements [director.Options.Losses].
func (l *lossWatch) list() (all []director.Loss) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kernel != nil {
		counts, err := l.kernel()
		if err != nil {
			l.log.Debug("no counts of the kernel", "err", err)
		}
		for _, c := range counts {
			all = append(all, director.Loss{Interface: c.Interface, Counter: string(c.Loss), Frames: c.Frames})
		}
	}
	for _, iface := range l.interfaces {
		said := l.said[iface]
		for _, name := range slices.Sorted(maps.Keys(said)) {
			all = append(all, director.Loss{Interface: iface, Counter: name, IsDrivers: true, Frames: said[name]})
		}
	}
	return all
}

// run looks until ctx ends.
func (l *lossWatch) run(ctx context.Context) error {
	tick := time.NewTicker(lossPeriod)
	defer tick.Stop()
	for {
		l.look(time.Now())
		if l.giveUp != nil {
			l.judge(ctx)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return l.end()
		}
	}
}

// Where so many frames were lost in a period, and so many percent of those sent,
// native mode does not work.
const (
	hopelessFrames  = 20
	hopelessPercent = 90
)

// balance is what XDP has sent back, and what drivers have lost of that.
type balance struct{ sent, lost uint64 }

// judge looks whether what was sent since the last look was lost.
func (l *lossWatch) judge(ctx context.Context) {
	now, err := l.takeBalance()
	if err != nil {
		l.log.Debug("what is sent and lost is not known", "err", err)
		return
	}
	before := l.before
	l.before = &now
	if before == nil {
		return
	}
	if lost, sent := now.lost-before.lost, now.sent-before.sent; lost >= hopelessFrames && lost*100 >= sent*hopelessPercent {
		l.giveUp(ctx, lost, sent)
	}
}

func (l *lossWatch) takeBalance() (now balance, err error) {
	if now.sent, err = l.sentBack(); err != nil {
		return now, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kernel == nil {
		return now, errors.New("the kernel does not count losses")
	}
	counts, err := l.kernel()
	for _, c := range counts {
		if c.Loss == losses.TX {
			now.lost += c.Frames
		}
	}
	return now, err
}

// fellBack is the kind of a note that native mode was given up.
const fellBack = "fell-back"

// giveUpNative has the daemon start anew: from then on auto is generic mode.
func (d *Daemon) giveUpNative(ctx context.Context, lost, sent uint64) {
	file, err := d.director.FileToRenew(ctx)
	if err != nil {
		return // the daemon ends
	}
	note := warnings.Warning{
		Kind: fellBack, Subject: "packet path", Note: true,
		Text: fmt.Sprintf("native XDP lost %d of %d frames: generic mode serves, which is slower", lost, sent),
		Cure: "mend the driver, or the other end of a veth; then lvx stop --purge and a fresh start",
	}
	d.log.Warn("native XDP loses what it sends: falling back to generic", "lost", lost, "sent", sent)
	d.history.Add(history.Event{Kind: history.Daemon, Subject: "lvx", Text: note.Text})
	select {
	case d.next <- Next{Config: file.Config, text: file.Text, fellBack: &note}:
	default: // something follows already
	}
}

// end ends the counting.
func (l *lossWatch) end() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kernel = nil
	if l.close == nil {
		return nil
	}
	return l.close()
}

// look asks the drivers, and warns of interfaces whose frames were lost lately.
func (l *lossWatch) look(now time.Time) {
	for _, iface := range l.interfaces {
		said, err := l.driver(iface)
		if err != nil {
			l.log.Debug("no statistics of the driver", "interface", iface, "err", err)
		}
		l.mu.Lock()
		l.said[iface] = said
		l.mu.Unlock()
	}
	total := map[string]uint64{}
	for _, c := range l.list() {
		total[c.Interface] += c.Frames
	}
	for _, iface := range l.interfaces {
		before, known := l.total[iface]
		if l.total[iface] = total[iface]; known && total[iface] > before {
			l.lastOne[iface] = now
		}
		subject := "interface " + iface
		if at, ever := l.lastOne[iface]; !ever || now.Sub(at) >= lossMemory {
			l.warnings.End(framesLost, subject)
			continue
		}
		l.warnings.Put(warnings.Warning{
			Kind: framesLost, Subject: subject, Text: "its driver loses frames that XDP sends (`lost` in lvx status, lvx_frames_lost_total)",
			Cure: "xdp_mode: generic; a full ring: ethtool -G " + iface + "; the other end of a veth needs an XDP program",
		})
	}
}
