package testenv

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Decapsulate makes an interface of a host take the outer header off the packets
// in IPIP, GRE and GUE (port 6080), of either family in either, that are for the host's
// own address there, the first of each family that it has now, as tunnel devices do,
// which not every kernel has. It lives as long as the interface.
func (h *Host) Decapsulate(nic string) error {
	return h.Do(func() error {
		if err := rlimit.RemoveMemlock(); err != nil {
			return fmt.Errorf("memory limit for BPF: %w", err)
		}
		link, err := netlink.LinkByName(nic)
		if err != nil {
			return fmt.Errorf("interface %s: %w", nic, err)
		}
		own6, err := firstIPv6(link)
		if err != nil {
			return err
		}
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "testenv_decap", Type: ebpf.XDP, License: "GPL",
			Instructions: decapsulation(h.Addr(nic).As4(), own6.As16()),
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

// firstIPv6 is an interface's first address of IPv6 that is not link-local, ::
// without one, which is nobody's.
func firstIPv6(link netlink.Link) (netip.Addr, error) {
	list, err := netlink.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("addresses of %s: %w", link.Attrs().Name, err)
	}
	for _, a := range list {
		if own, ok := netip.AddrFromSlice(a.IP); ok && !own.IsLinkLocalUnicast() {
			return own, nil
		}
	}
	return netip.IPv6Unspecified(), nil
}

// What frames say of their contents, as the host's loads read it, and lengths.
const (
	typeIPv4 = 0x0008
	typeIPv6 = 0xdd86
	portGUE  = 0xc017 // 6080

	lenEthernet = 14
	lenIPv4     = 20
	lenIPv6     = 40
	lenGUE      = 8 + 4 // with UDP's header
	lenGRE      = 4
)

// decapsulation moves the Ethernet header over the outer headers of a packet in a
// tunnel for an address, and passes everything. R7 is how much is taken away, R8
// the protocol of what is behind the outer header at R9, and at the end R9 the type of
// what is inside.
func decapsulation(own4 [4]byte, own6 [16]byte) asm.Instructions {
	return slices.Concat(
		asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}, readBounds(), holdAtLeast(lenEthernet+lenIPv6),
		asm.Instructions{
			asm.LoadMem(asm.R5, asm.R2, 12, asm.Half),
			asm.JEq.Imm(asm.R5, typeIPv6, "ipv6"),
			asm.JNE.Imm(asm.R5, typeIPv4, "pass"),
		},
		outerHeader("ipv4", lenIPv4, 9), holdAt(lenEthernet+16, own4[:]), asm.Instructions{asm.Ja.Label("protocol")},
		outerHeader("ipv6", lenIPv6, 6), holdAt(lenEthernet+24, own6[:]),
		betweenHeaders(), stripOuter(),
	)
}

// readBounds has a frame begin at R2 and end at R3.
func readBounds() asm.Instructions {
	const data, end = 0, 4 // in struct xdp_md
	return asm.Instructions{asm.LoadMem(asm.R2, asm.R6, data, asm.Word), asm.LoadMem(asm.R3, asm.R6, end, asm.Word)}
}

// holdAtLeast passes shorter frames.
func holdAtLeast(n int32) asm.Instructions {
	return asm.Instructions{asm.Mov.Reg(asm.R4, asm.R2), asm.Add.Imm(asm.R4, n), asm.JGT.Reg(asm.R4, asm.R3, "pass")}
}

// holdAt passes frames that have another address somewhere.
func holdAt(at int16, address []byte) (p asm.Instructions) {
	for ; len(address) > 0; at, address = at+4, address[4:] {
		p = append(p,
			asm.LoadMem(asm.R5, asm.R2, at, asm.Word),
			asm.LoadImm(asm.R4, int64(binary.NativeEndian.Uint32(address)), asm.DWord),
			asm.JNE.Reg(asm.R5, asm.R4, "pass"))
	}
	return p
}

// outerHeader reads one of a length, which has its protocol somewhere.
func outerHeader(label string, length int32, protocol int16) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R8, asm.R2, lenEthernet+protocol, asm.Byte).WithSymbol(label),
		asm.Mov.Imm(asm.R7, length),
		asm.Mov.Reg(asm.R9, asm.R2), asm.Add.Imm(asm.R9, lenEthernet+length),
	}
}

// betweenHeaders finds out what is inside, and where.
func betweenHeaders() asm.Instructions {
	return slices.Concat(asm.Instructions{
		asm.JEq.Imm(asm.R8, unix.IPPROTO_IPIP, "inside4").WithSymbol("protocol"),
		asm.JEq.Imm(asm.R8, unix.IPPROTO_IPV6, "inside6"),
	}, holdAtLeast(lenEthernet+lenIPv6+lenGUE), asm.Instructions{
		asm.JEq.Imm(asm.R8, unix.IPPROTO_UDP, "gue"),
		asm.JNE.Imm(asm.R8, unix.IPPROTO_GRE, "pass"),
		asm.Add.Imm(asm.R7, lenGRE),
		asm.LoadMem(asm.R5, asm.R9, 2, asm.Half),
		asm.JEq.Imm(asm.R5, typeIPv4, "inside4"),
		asm.JEq.Imm(asm.R5, typeIPv6, "inside6"),
		asm.Ja.Label("pass"),
		asm.LoadMem(asm.R5, asm.R9, 2, asm.Half).WithSymbol("gue"),
		asm.JNE.Imm(asm.R5, portGUE, "pass"),
		asm.Add.Imm(asm.R7, lenGUE),
		asm.LoadMem(asm.R5, asm.R9, 8+1, asm.Byte),
		asm.JEq.Imm(asm.R5, unix.IPPROTO_IPIP, "inside4"),
		asm.JEq.Imm(asm.R5, unix.IPPROTO_IPV6, "inside6"),
		asm.Ja.Label("pass"),
		asm.Mov.Imm(asm.R9, typeIPv4).WithSymbol("inside4"),
		asm.Ja.Label("strip"),
		asm.Mov.Imm(asm.R9, typeIPv6).WithSymbol("inside6"),
	})
}

// stripOuter takes R7 bytes away, and passes everything.
func stripOuter() asm.Instructions {
	return slices.Concat(asm.Instructions{
		asm.LoadMem(asm.R4, asm.R2, 0, asm.DWord).WithSymbol("strip"),
		asm.StoreMem(asm.RFP, -8, asm.R4, asm.DWord),
		asm.LoadMem(asm.R8, asm.R2, 8, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.FnXdpAdjustHead.Call(),
		asm.JNE.Imm(asm.R0, 0, "pass"),
	}, readBounds(), holdAtLeast(lenEthernet), asm.Instructions{
		asm.LoadMem(asm.R4, asm.RFP, -8, asm.DWord),
		asm.StoreMem(asm.R2, 0, asm.R4, asm.DWord),
		asm.StoreMem(asm.R2, 8, asm.R8, asm.Word),
		asm.StoreMem(asm.R2, 12, asm.R9, asm.Half),
		asm.Mov.Imm(asm.R0, 2).WithSymbol("pass"), // XDP_PASS
		asm.Return(),
	})
}
