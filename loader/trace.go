package loader

import (
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/lvx-lb/lvx/bpf"
)

// ErrTraced is returned by [Datapath.StartTrace] while another trace runs.
var ErrTraced = errors.New("another trace or capture is running")

// Tracer watches the packet path at work: while it is open, the programs of
// the interfaces are others, of the same source, which record what they decide.
type Tracer struct {
	d         *Datapath
	programs  map[string]*ebpf.Program
	programs6 map[uint32]*ebpf.Program // of IPv6, by slot of the interface
	reader    *ringbuf.Reader
	lost      []*ebpf.Variable
}

// StartTrace exchanges the programs of all interfaces for recording ones. Of
// each frame keep bytes are recorded, at most [bpf.FrameMost].
func (d *Datapath) StartTrace(filter bpf.RecordingFilter, keep uint32) (_ *Tracer, err error) {
	if d.tracer != nil {
		return nil, ErrTraced
	}
	t := &Tracer{d: d, programs: map[string]*ebpf.Program{}, programs6: map[uint32]*ebpf.Program{}}
	defer func() {
		if err != nil {
			_ = t.Stop()
		}
	}()
	d.tracer = t
	shared, err := t.open()
	if err != nil {
		return nil, err
	}
	defer closeMaps(shared)
	for _, a := range d.Attachments {
		if err := t.load(a, shared, filter, keep); err != nil {
			return nil, err
		}
		if err := t.load6(a, shared, filter, keep); err != nil {
			return nil, err
		}
	}
	for slot, prog := range t.programs6 {
		if err := d.putFamily(slot, prog); err != nil {
			return nil, err
		}
	}
	for name, prog := range t.programs {
		if err := d.exchange(name, prog); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// open makes the maps that the recording programs of all interfaces share.
func (t *Tracer) open() (map[string]*ebpf.Map, error) {
	spec, err := bpf.LoadTraceSpec()
	if err != nil {
		return nil, err
	}
	shared := map[string]*ebpf.Map{}
	for _, name := range []string{"recording", "recordings"} {
		m, err := ebpf.NewMap(spec.Maps[name])
		if err != nil {
			closeMaps(shared)
			return nil, fmt.Errorf("map %s: %w", name, err)
		}
		shared[name] = m
	}
	if t.reader, err = ringbuf.NewReader(shared["recordings"]); err != nil {
		closeMaps(shared)
		return nil, fmt.Errorf("ring of recordings: %w", err)
	}
	return shared, nil
}

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		_ = m.Close()
	}
}

// load makes the recording program of an interface.
func (t *Tracer) load(a Attachment, shared map[string]*ebpf.Map, filter bpf.RecordingFilter, keep uint32) error {
	spec, err := bpf.LoadTraceSpec()
	if err != nil {
		return err
	}
	coll, err := t.loadRecording(spec, "lb", a.Slot, shared, filter, keep)
	if err != nil {
		return err
	}
	defer coll.Close()
	if err := coll.Variables["own_mac"].Set(t.d.Interfaces[a.Slot].MAC); err != nil {
		return fmt.Errorf("MAC of the recording program: %w", err)
	}
	t.programs[a.Name] = coll.DetachProgram("lb")
	return nil
}

// load6 makes the recording program of IPv6 of an interface, where IPv6 is served.
func (t *Tracer) load6(a Attachment, shared map[string]*ebpf.Map, filter bpf.RecordingFilter, keep uint32) error {
	if t.d.program6[a.Slot] == nil {
		return nil
	}
	spec, err := bpf.LoadTraceSpec6()
	if err != nil {
		return err
	}
	coll, err := t.loadRecording(spec, program6, a.Slot, shared, filter, keep)
	if err != nil {
		return fmt.Errorf("IPv6: %w", err)
	}
	defer coll.Close()
	t.programs6[a.Slot] = coll.DetachProgram(program6)
	return nil
}

// loadRecording loads a recording program with what is to be recorded.
func (t *Tracer) loadRecording(spec *ebpf.CollectionSpec, program string, slot uint32, shared map[string]*ebpf.Map, filter bpf.RecordingFilter, keep uint32) (*ebpf.Collection, error) {
	if err := spec.Variables["keep_most"].Set(min(keep, bpf.FrameMost)); err != nil {
		return nil, fmt.Errorf("length of recorded frames: %w", err)
	}
	coll, err := t.d.loadCollection(spec, program, slot, shared)
	if err != nil {
		return nil, err
	}
	if err := setVariable(coll.Variables["recording_filter"], filter); err != nil {
		coll.Close()
		return nil, fmt.Errorf("filter of the recording program: %w", err)
	}
	t.lost = append(t.lost, coll.Variables["recordings_lost"])
	return coll, nil
}

// setVariable writes a struct into a variable as it lies in memory.
func setVariable[T any](v *ebpf.Variable, value T) error {
	return v.Set(unsafe.Slice((*byte)(unsafe.Pointer(&value)), unsafe.Sizeof(value)))
}

// exchange puts a program into the link of an interface. One that is not
// attached at the moment has none.
func (d *Datapath) exchange(name string, prog *ebpf.Program) error {
	l := d.links[name]
	if l == nil {
		return nil
	}
	if err := l.Update(prog); err != nil {
		return fmt.Errorf("exchange the program of %s: %w", name, err)
	}
	return nil
}

// Read waits for the next recording until a time. It returns nil if none
// came, and [os.ErrClosed] after Stop. It may be called while others use the
// Datapath.
func (t *Tracer) Read(until time.Time) (*bpf.Recording, error) {
	t.reader.SetDeadline(until)
	sample, err := t.reader.Read()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, nil
	case errors.Is(err, ringbuf.ErrClosed):
		return nil, os.ErrClosed
	case err != nil:
		return nil, fmt.Errorf("ring of recordings: %w", err)
	}
	return decodeRecording(sample.RawSample)
}

// Lost is how many recordings were dropped because they were not read fast
// enough.
func (t *Tracer) Lost() uint64 {
	n := uint64(0)
	for _, v := range t.lost {
		var lost uint64
		if v.Get(&lost) == nil {
			n += lost
		}
	}
	return n
}

// Program is the recording program of an interface, for tests that run it
// without a wire.
func (t *Tracer) Program(iface string) *ebpf.Program { return t.programs[iface] }

// Stop puts the programs back that serve otherwise. Stopping again does
// nothing.
func (t *Tracer) Stop() error {
	if t.d.tracer != t {
		return nil
	}
	t.d.tracer = nil
	var errs []error
	for name, prog := range t.programs {
		errs = append(errs, t.d.exchange(name, t.d.program[name]), prog.Close())
	}
	for slot, prog := range t.programs6 {
		errs = append(errs, t.d.putFamily(slot, t.d.program6[slot]), prog.Close())
	}
	if t.reader != nil {
		errs = append(errs, t.reader.Close())
	}
	return errors.Join(errs...)
}
