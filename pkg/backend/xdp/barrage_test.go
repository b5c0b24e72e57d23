package xdp

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// barrage makes packets of random sources inside the kernel, and hands each to
// the packet path: ten million take seconds. Its sources and ports come from
// one number, so that the same packets can be sent again with other flags.
type barrage struct {
	*harness
	prog  *ebpf.Program
	plans *ebpf.Map
	frame func(flags string) []byte // to the web service
}

// frameWords is how long a frame is, in words of 8 bytes: it ends in padding.
const frameWords = 10

// plan is what the generator is told: where the random sequence stands, and
// the frame whose source it replaces.
type plan struct {
	Random uint64
	Frame  [frameWords * 8]byte
}

func (h *harness) barrage(t testing.TB) *barrage {
	t.Helper()
	return h.barrageOf(t, newSources, func(flags string) []byte { return frame(lb.Packet{Proto: lb.TCP, Src: client, Dst: web, Flags: flags}) })
}

// barrage6 is a barrage of IPv6.
func (h *harness) barrage6(t testing.TB) *barrage {
	t.Helper()
	return h.barrageOf(t, newSources6, func(flags string) []byte {
		return frame6(lb.Packet{Proto: lb.TCP, Src: client6, Dst: web6, Flags: flags}, 0, 0, nil)
	})
}

// barrageOf is a barrage of frames to whose sources the generator does so.
func (h *harness) barrageOf(t testing.TB, sources asm.Instructions, frame func(flags string) []byte) *barrage {
	t.Helper()
	b := &barrage{harness: h, frame: frame}
	var err error
	b.plans, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8 + 8*frameWords, MaxEntries: 1})
	must(t, err)
	slots, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	must(t, err)
	const frags = 32 // BPF_F_XDP_HAS_FRAGS: the programs of an array are of one kind
	b.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, AttachType: ebpf.AttachXDP, Flags: frags, License: "GPL", Instructions: generator(b.plans.FD(), slots.FD(), sources),
	})
	must(t, err)
	t.Cleanup(func() {
		_ = b.prog.Close()
		_ = b.plans.Close()
		_ = slots.Close()
	})
	must(t, slots.Put(uint32(0), h.dp.Program("lvx0")))
	return b
}

// newSources writes a source of IPv4 that R1 says: one of 2^29 addresses and
// 2^16 ports.
var newSources = asm.Instructions{
	asm.Mov.Reg(asm.R2, asm.R1),
	asm.RSh.Imm(asm.R2, 35),
	asm.Or.Imm(asm.R2, 0x20000000), // 32.0.0.0/3: no martians
	asm.HostTo(asm.BE, asm.R2, asm.Word),
	asm.StoreMem(asm.R7, 26, asm.R2, asm.Word),
	asm.RSh.Imm(asm.R1, 16),
	asm.StoreMem(asm.R7, 34, asm.R1, asm.Half),
}

// newSources6 writes a source of IPv6 that R1 says: one of 2^64 addresses of a
// network, and a port.
var newSources6 = asm.Instructions{
	asm.StoreMem(asm.R7, 30, asm.R1, asm.DWord),
	asm.RSh.Imm(asm.R1, 16),
	asm.StoreMem(asm.R7, 54, asm.R1, asm.Half),
}

// generator writes the plan's frame with the next source, and tail-calls the
// program in the slot. (Knuth's linear congruential generator, whose high bits
// are good.)
func generator(plans, slots int, sources asm.Instructions) asm.Instructions {
	ins := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, 0, asm.Word), // data
		asm.LoadMem(asm.R8, asm.R6, 4, asm.Word), // data_end
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Add.Imm(asm.R2, 8*frameWords),
		asm.JGT.Reg(asm.R2, asm.R8, "out"),
		asm.StoreImm(asm.R10, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, plans),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
	}
	for i := range int16(frameWords) {
		ins = append(ins, asm.LoadMem(asm.R1, asm.R0, 8+8*i, asm.DWord), asm.StoreMem(asm.R7, 8*i, asm.R1, asm.DWord))
	}
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.LoadImm(asm.R2, 6364136223846793005, asm.DWord),
		asm.Mul.Reg(asm.R1, asm.R2),
		asm.LoadImm(asm.R2, 1442695040888963407, asm.DWord),
		asm.Add.Reg(asm.R1, asm.R2),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
	)
	ins = append(ins, sources...)
	return append(ins,
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, slots),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
		asm.Return(),
	)
}

// send sends n packets to the web service with these flags, from the sources
// that follow random, and returns what follows them.
func (b *barrage) send(t testing.TB, flags string, n int, random uint64) uint64 {
	t.Helper()
	next, err := b.run(flags, n, random)
	must(t, err)
	return next
}

// run is send for other goroutines than the test's.
func (b *barrage) run(flags string, n int, random uint64) (uint64, error) {
	p := plan{Random: random}
	copy(p.Frame[:], b.frame(flags))
	put := func() error { return b.plans.Put(uint32(0), &p) }
	if err := put(); err != nil {
		return 0, err
	}
	opts := &ebpf.RunOptions{Data: p.Frame[:], DataOut: make([]byte, 512), Repeat: uint32(n), Reset: func() { _ = put() }}
	if _, err := b.prog.Run(opts); err != nil {
		return 0, err
	}
	var after plan
	err := b.plans.Lookup(uint32(0), &after)
	return after.Random, err
}
