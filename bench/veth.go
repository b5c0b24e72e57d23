package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A wire is a veth pair. Its near end is the director's, in the director's
// namespace; its far end is in the namespace of a sender, which is the sink
// too: a director in direct routing sends a frame out by the interface it came
// in. One wire has lvx at its near end, the other one floor A. Everything runs
// on one CPU.
type wire struct{ near, far string }

var (
	lvxWire   = wire{nic, "lvxb1"}
	floorWire = wire{"lvxb2", "lvxb3"}
)

// liveFrames is BPF_F_TEST_XDP_LIVE_FRAMES: what the program redirects is
// really sent.
const liveFrames = 2

// stream is one of the things that are measured, with what was found.
type stream struct {
	Rate
	wire wire
	traffic
	mpps       []float64
	sent, came uint64
}

// veth measures how many frames per second come through, and how many do not.
func veth(ctx context.Context, j *job) error {
	rounds, frames := 31, million
	if j.quick {
		rounds, frames = 7, million/2
	}
	return vethOf(ctx, j, rounds, frames, million)
}

// vethOf measures with so many frames in each of some rounds; flows is what
// many flows are.
func vethOf(ctx context.Context, j *job, rounds, frames, flows int) (err error) {
	if err := ownNamespace(); err != nil {
		return err
	}
	director, err := net.InterfaceByName(nic)
	if err != nil {
		return err
	}
	r, err := newRig(rigOptions{flows: flows, templates: 1, segment: director.Index})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.apply(services(1, 2)); err != nil {
		return err
	}
	one, many := uniform(tcpFrame(ack), 1), uniform(tcpFrame(ack), flows)
	if err := r.establish(many, flows); err != nil {
		return err
	}
	f, err := r.newFar()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	streams := []*stream{
		{Rate: Rate{Name: "veth/floor_a", What: "floor A"}, wire: floorWire, traffic: one},
		{Rate: Rate{Name: "veth/lvx/1", What: "lvx, 1 flow"}, wire: lvxWire, traffic: one},
		{Rate: Rate{Name: "veth/lvx/1M", What: "lvx, 1M flows"}, wire: lvxWire, traffic: many},
	}
	fmt.Fprint(j.notes, "over a veth, one core ")
	for round := range rounds + 1 { // the first one warms up
		for _, s := range streams {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := f.measure(s, frames, round > 0); err != nil {
				return fmt.Errorf("%s: %w", s.What, err)
			}
		}
		fmt.Fprint(j.notes, ".")
	}
	fmt.Fprintln(j.notes)
	j.report.addWire(streams)
	return nil
}

// addWire notes medians, ratios and checks; the first stream is the yardstick.
func (r *Report) addWire(streams []*stream) {
	floor := summarize(streams[0].mpps).Median
	for _, s := range streams {
		found := summarize(s.mpps)
		s.Mpps, s.Low, s.High, s.OfFloorA = found.Median, found.Low, found.High, found.Median/floor
		s.Lost = 1 - float64(s.came)/float64(s.sent)
		r.Wire = append(r.Wire, s.Rate)
	}
	r.Checks = append(r.Checks,
		atLeast("veth, 1 flow: Mpps / floor A's", streams[1].OfFloorA, 0.80),
		atLeast("veth, 1M flows: Mpps / floor A's", streams[2].OfFloorA, 0.33))
}

// far is the other side: a thread in the sender's namespace.
type far struct {
	r       *rig
	work    chan func()
	links   []link.Link
	senders map[wire]*ebpf.Program

	softirqs string // see busy
}

// newFar makes floor A's wire and the far side of both.
func (r *rig) newFar() (f *far, err error) {
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: floorWire.near, HardwareAddr: directorMAC[:]}, PeerName: floorWire.far}
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, fmt.Errorf("veth: %w", err)
	}
	if err := netlink.LinkSetUp(pair); err != nil {
		return nil, fmt.Errorf("veth: %w", err)
	}
	f = &far{
		r: r, work: make(chan func()), senders: map[wire]*ebpf.Program{}, softirqs: softirqd(runtime.NumCPU() - 1),
	}
	if err := f.attach(r.raw.FloorA, floorWire.near); err != nil {
		return nil, err
	}
	home, err := netns.Get()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("namespace: %w", err), f.close())
	}
	defer home.Close()
	ready := make(chan error)
	go f.live(home, ready)
	if err := <-ready; err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// live is the thread: it settles in, and works until there is no more work.
func (f *far) live(director netns.NsHandle, ready chan<- error) {
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	ready <- f.settle(director)
	for do := range f.work {
		do()
	}
}

// settle makes the namespace and takes the far ends into it.
func (f *far) settle(director netns.NsHandle) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	if err := pin(runtime.NumCPU() - 1); err != nil {
		return err
	}
	here, err := netns.Get()
	if err != nil {
		return fmt.Errorf("namespace: %w", err)
	}
	defer here.Close()
	there, err := netlink.NewHandleAt(director)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer there.Close()
	for _, w := range []wire{lvxWire, floorWire} {
		l, err := there.LinkByName(w.far)
		if err == nil {
			err = there.LinkSetNsFd(l, int(here))
		}
		if err == nil {
			l, err = netlink.LinkByName(w.far) // its number may be another one here
		}
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			return fmt.Errorf("far end %s: %w", w.far, err)
		}
		if err := f.attach(f.r.raw.Sink, w.far); err != nil {
			return err
		}
		if f.senders[w], err = f.r.sender(l.Attrs().Index); err != nil {
			return err
		}
	}
	return nil
}

// sender loads the program that sends by an interface.
func (r *rig) sender(index int) (*ebpf.Program, error) {
	spec, err := LoadRaw()
	if err != nil {
		return nil, err
	}
	if err := spec.Variables[RawVarWayOut].Set(uint32(index)); err != nil {
		return nil, fmt.Errorf("constant %s: %w", RawVarWayOut, err)
	}
	var o struct {
		SendFrames *ebpf.Program `ebpf:"send_frames"`
	}
	err = spec.LoadAndAssign(&o, &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{RawMapPlans: r.raw.Plans}})
	if err != nil {
		return nil, fmt.Errorf("sender: %w", err)
	}
	return o.SendFrames, nil
}

func (f *far) attach(p *ebpf.Program, name string) error {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: i.Index, Flags: link.XDPDriverMode})
	if err != nil {
		return fmt.Errorf("XDP on %s: %w", name, err)
	}
	f.links = append(f.links, l)
	return nil
}

// measure sends frames at full speed and counts those that come back.
func (f *far) measure(s *stream, frames int, counts bool) error {
	before, err := f.r.hits()
	if err != nil {
		return err
	}
	if err := f.r.raw.Plans.Put(uint32(0), &s.RawPlan); err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	took := make(chan time.Duration)
	f.work <- func() {
		start := f.busy()
		_, err = f.senders[s.wire].Run(&ebpf.RunOptions{
			Data: s.Frame[:shortFrame], Repeat: uint32(frames), Flags: liveFrames, BatchSize: 64,
		})
		took <- f.busy() - start
	}
	elapsed := <-took
	if err != nil {
		return fmt.Errorf("live frames: %w", err)
	}
	came, err := f.settled(before)
	if err != nil || !counts {
		return err
	}
	s.mpps = append(s.mpps, float64(came)/elapsed.Seconds()/million)
	s.sent += uint64(frames)
	s.came += min(came, uint64(frames)) // more: a run that a signal interrupts is repeated
	return f.r.raw.Plans.Lookup(uint32(0), &s.RawPlan)
}

// busy is how long the CPU has worked for the wires: on the sender's thread,
// which most of the path runs on, and on the kernel's thread for what is left
// over. What else ran on the CPU does not count.
func (f *far) busy() time.Duration {
	text, err := os.ReadFile(f.softirqs)
	if err != nil {
		return cpuTime()
	}
	first, _, _ := strings.Cut(string(text), " ")
	ns, _ := strconv.ParseInt(first, 10, 64)
	return cpuTime() + time.Duration(ns)
}

// softirqd finds the file that says how long ksoftirqd of a CPU has run, "" if
// there is none.
func softirqd(cpu int) string {
	dirs, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range dirs {
		text, err := os.ReadFile(name)
		if err == nil && strings.TrimSpace(string(text)) == fmt.Sprintf("ksoftirqd/%d", cpu) {
			return filepath.Join(filepath.Dir(name), "schedstat")
		}
	}
	return ""
}

// settled waits until nothing comes any more and returns how much has.
func (f *far) settled(before uint64) (uint64, error) {
	for last := before; ; {
		time.Sleep(5 * time.Millisecond)
		now, err := f.r.hits()
		if err != nil || now == last {
			return now - before, err
		}
		last = now
	}
}

func (f *far) close() error {
	close(f.work)
	var errs []error
	for _, l := range f.links {
		errs = append(errs, l.Close())
	}
	for _, p := range f.senders {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}
