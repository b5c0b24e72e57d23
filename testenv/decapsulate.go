package testenv

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Decapsulate makes an interface of a host take the outer header off the
// IPIP packets that are for the host's own address there, as an ipip device
// does, which not every kernel has. It lives as long as the interface.
func (h *Host) Decapsulate(nic string) error {
	return h.Do(func() error {
		if err := rlimit.RemoveMemlock(); err != nil {
			return fmt.Errorf("memory limit for BPF: %w", err)
		}
		link, err := netlink.LinkByName(nic)
		if err != nil {
			return fmt.Errorf("interface %s: %w", nic, err)
		}
		own := h.Addr(nic).As4()
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "testenv_decap", Type: ebpf.XDP, License: "GPL",
			Instructions: decapsulation(binary.NativeEndian.Uint32(own[:])),
		})
		if err != nil {
			return fmt.Errorf("decapsulating program: %w", err)
		}
		defer prog.Close()
		if err := netlink.LinkSetXdpFdWithFlags(link, prog.FD(), unix.XDP_FLAGS_SKB_MODE); err != nil {
			return fmt.Errorf("decapsulating program on %s: %w", nic, err)
		}
		return nil
	})
}

// decapsulation moves the Ethernet header over the outer header of an IPIP
// packet for an address, and passes everything.
func decapsulation(own uint32) asm.Instructions {
	const (
		pass, ethernet, ip      = 2, 14, 20
		data, end               = 0, 4 // in struct xdp_md
		adjustHead              = asm.FnXdpAdjustHead
		protocolIPIP, ipv4InBig = 4, 0x0008
	)
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R2, asm.R6, data, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, end, asm.Word),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, ethernet+2*ip),
		asm.JGT.Reg(asm.R4, asm.R3, "pass"),
		asm.LoadMem(asm.R5, asm.R2, 12, asm.Half),
		asm.JNE.Imm(asm.R5, ipv4InBig, "pass"),
		asm.LoadMem(asm.R5, asm.R2, ethernet+9, asm.Byte),
		asm.JNE.Imm(asm.R5, protocolIPIP, "pass"),
		asm.LoadMem(asm.R5, asm.R2, ethernet+16, asm.Word),
		asm.LoadImm(asm.R4, int64(own), asm.DWord),
		asm.JNE.Reg(asm.R5, asm.R4, "pass"),
		asm.LoadMem(asm.R7, asm.R2, 0, asm.DWord),
		asm.LoadMem(asm.R8, asm.R2, 8, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, ip),
		adjustHead.Call(),
		asm.JNE.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R2, asm.R6, data, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, end, asm.Word),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, ethernet),
		asm.JGT.Reg(asm.R4, asm.R3, "pass"),
		asm.StoreMem(asm.R2, 0, asm.R7, asm.DWord),
		asm.StoreMem(asm.R2, 8, asm.R8, asm.Word),
		asm.StoreImm(asm.R2, 12, ipv4InBig, asm.Half),
		asm.Mov.Imm(asm.R0, pass).WithSymbol("pass"),
		asm.Return(),
	}
}
