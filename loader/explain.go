package loader

import (
	"encoding/binary"
	"fmt"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/lvx-lb/lvx/bpf"
)

// explainer runs the explaining program of one interface.
type explainer struct {
	prog     *ebpf.Program
	ownMAC   *ebpf.Variable
	reader   *ringbuf.Reader
	families *ebpf.Map // of explaining programs; the kernel empties it once nobody holds it
}

func (e *explainer) close() {
	_ = e.prog.Close()
	_ = e.reader.Close()
	_ = e.families.Close()
}

// Explanation is what the packet path would do with a frame.
type Explanation struct {
	Recording *bpf.Recording
	Frame     []byte // as the driver would get it
}

// Explain runs a frame that comes by an interface through the packet path as
// it is now, without storing or sending anything. Calls must not run side by
// side.
func (d *Datapath) Explain(iface string, frame []byte) (Explanation, error) {
	for _, a := range d.Attachments {
		if a.Name == iface {
			return d.explain(a, frame)
		}
	}
	return Explanation{}, fmt.Errorf("interface %s: the packet path does not serve it", iface)
}

func (d *Datapath) explain(a Attachment, frame []byte) (Explanation, error) {
	e, err := d.explainerOf(a)
	if err != nil {
		return Explanation{}, err
	}
	if err := e.ownMAC.Set(d.Interfaces[a.Slot].MAC); err != nil {
		return Explanation{}, fmt.Errorf("MAC of the explaining program: %w", err)
	}
	// struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
	ctx := make([]byte, 24)
	binary.NativeEndian.PutUint32(ctx[4:], uint32(len(frame)))
	binary.NativeEndian.PutUint32(ctx[12:], uint32(a.Index))
	opts := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Context: ctx}
	if _, err := e.prog.Run(opts); err != nil {
		return Explanation{}, fmt.Errorf("run the explaining program: %w", err)
	}
	e.reader.SetDeadline(time.Now())
	sample, err := e.reader.Read()
	if err != nil {
		return Explanation{}, fmt.Errorf("recording of the explaining program: %w", err)
	}
	rec, err := decodeRecording(sample.RawSample)
	return Explanation{Recording: rec, Frame: opts.DataOut}, err
}

// explainerOf loads the program of an interface when it is asked for first.
func (d *Datapath) explainerOf(a Attachment) (*explainer, error) {
	if e := d.explainers[a.Slot]; e != nil {
		return e, nil
	}
	spec, err := bpf.LoadExplainSpec()
	if err != nil {
		return nil, err
	}
	families, err := ebpf.NewMap(spec.Maps["families"])
	if err != nil {
		return nil, fmt.Errorf("explaining programs of IPv6: %w", err)
	}
	e := &explainer{families: families}
	coll, err := d.loadCollection(spec, "lb", a.Slot, map[string]*ebpf.Map{"families": families})
	if err != nil {
		_ = families.Close()
		return nil, err
	}
	defer coll.Close()
	e.prog, e.ownMAC = coll.DetachProgram("lb"), coll.Variables["own_mac"]
	if e.reader, err = ringbuf.NewReader(coll.Maps["recordings"]); err != nil {
		_ = e.prog.Close()
		_ = families.Close()
		return nil, fmt.Errorf("ring of recordings: %w", err)
	}
	if err := d.explain6(e, a.Slot, coll.Maps); err != nil {
		e.close()
		return nil, err
	}
	if d.explainers == nil {
		d.explainers = map[uint32]*explainer{}
	}
	d.explainers[a.Slot] = e
	return e, nil
}

// explain6 adds the explaining program of IPv6, where IPv6 is served.
func (d *Datapath) explain6(e *explainer, slot uint32, maps map[string]*ebpf.Map) error {
	if d.program6[slot] == nil {
		return nil
	}
	spec, err := bpf.LoadExplainSpec6()
	if err != nil {
		return err
	}
	coll, err := d.loadCollection(spec, program6, slot, recordingMaps(maps))
	if err != nil {
		return fmt.Errorf("IPv6: %w", err)
	}
	defer coll.Close()
	if err := e.families.Put(slot, coll.Programs[program6]); err != nil {
		return fmt.Errorf("explaining program of IPv6: %w", err)
	}
	return nil
}

// recordingMaps are the maps of a recording program that it shares with the
// other family's.
func recordingMaps(maps map[string]*ebpf.Map) map[string]*ebpf.Map {
	return map[string]*ebpf.Map{"recording": maps["recording"], "recordings": maps["recordings"]}
}

// decodeRecording reads what a recording program has put into its ring.
func decodeRecording(sample []byte) (*bpf.Recording, error) {
	rec := new(bpf.Recording)
	head := int(unsafe.Offsetof(rec.Frames))
	if len(sample) < head {
		return nil, fmt.Errorf("recording of %d bytes (at least %d)", len(sample), head)
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(rec)), unsafe.Sizeof(*rec)), sample)
	kept := int(rec.KeptIn) + int(rec.KeptOut)
	if kept > len(sample)-head || kept > len(rec.Frames) {
		return nil, fmt.Errorf("recording of %d bytes says that %d bytes of frames are in it", len(sample), kept)
	}
	return rec, nil
}
