package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/backend/ipvs"
	"github.com/lvx-lb/lvx/pkg/config"
)

// hostReport is what this host can do, found out without changing it.
type hostReport struct {
	kernel     string
	recent     bool // kernel 5.15 or later
	btf        string
	bpffs      string
	interfaces []ifaceReport
	ipvs       error // why kernel IPVS cannot be used
}

// ifaceReport is what one interface can do.
type ifaceReport struct {
	name   string
	err    error // it is not there
	driver string
	mtu    int
	up     bool
	native bool // its driver does XDP itself
	frags  bool // and with frames of several buffers
}

// The oldest kernel that lvx is made for.
const oldestMajor, oldestMinor = 5, 15

func examine(names []string) hostReport {
	h := hostReport{kernel: "unknown", btf: "no (kernel without CONFIG_DEBUG_INFO_BTF)", ipvs: ipvs.Available()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.kernel = unix.ByteSliceToString(u.Release[:])
		h.recent = recent(h.kernel)
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err == nil {
		h.btf = "yes"
	}
	h.bpffs = bpffs("/sys/fs/bpf")
	for _, name := range names {
		h.interfaces = append(h.interfaces, examineInterface(name))
	}
	return h
}

// recent reads "6.1.0-56-cloud-amd64".
func recent(release string) bool {
	major, rest, _ := strings.Cut(release, ".")
	minor := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	a, err := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	return err == nil && err2 == nil && (a > oldestMajor || a == oldestMajor && b >= oldestMinor)
}

func bpffs(path string) string {
	var st unix.Statfs_t
	switch err := unix.Statfs(path, &st); {
	case errors.Is(err, unix.ENOENT):
		return "no " + path + " (kernel without CONFIG_BPF_SYSCALL)"
	case err != nil:
		return err.Error()
	case st.Type == unix.BPF_FS_MAGIC:
		return path
	}
	return "not mounted on " + path + " (mount -t bpf bpf " + path + ")"
}

// xdp tells why XDP cannot run on this host at all.
func (h hostReport) xdp() error {
	if !h.recent {
		return fmt.Errorf("kernel %s is older than %d.%d", h.kernel, oldestMajor, oldestMinor)
	}
	return nil
}

func examineInterface(name string) ifaceReport {
	r := ifaceReport{name: name}
	i, err := net.InterfaceByName(name)
	if err != nil {
		r.err = err
		return r
	}
	r.mtu, r.up = i.MTU, i.Flags&net.FlagUp != 0
	r.driver = driver(name)
	if f, err := xdpFeatures(i.Index); err == nil {
		r.native, r.frags = f&xdpBasic != 0, f&xdpFrags != 0
	} else {
		r.native = nativeDrivers[r.driver]
	}
	return r
}

// driver is the name of an interface's driver, in this network namespace:
// sysfs may show another one's.
func driver(name string) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "unknown"
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	if err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(info.Driver[:])
}

// mode is how lvx run would attach there.
func (r ifaceReport) mode(want config.XDPMode) string {
	if want == config.XDPGeneric || want == config.XDPAuto && !r.native {
		return "generic"
	}
	return "native"
}

// String is the line of the report.
func (r ifaceReport) String() string {
	if r.err != nil {
		return "no such interface"
	}
	words := []string{"driver " + r.driver, fmt.Sprintf("MTU %d", r.mtu)}
	if !r.up {
		words = append(words, "down")
	}
	switch {
	case r.native && r.frags:
		words = append(words, "native XDP, frames of any size")
	case r.native:
		words = append(words, "native XDP")
	default:
		words = append(words, "generic XDP only")
	}
	return strings.Join(words, ", ")
}

// What the kernel says about XDP since 6.3 (include/uapi/linux/netdev.h,
// Documentation/netlink/specs/netdev.yaml).
const (
	netdevFamily      = "netdev"
	netdevCmdDevGet   = 1
	netdevAttrIfindex = 1
	netdevAttrXDP     = 3
	xdpBasic          = 1  // NETDEV_XDP_ACT_BASIC
	xdpFrags          = 32 // NETDEV_XDP_ACT_RX_SG
)

// xdpFeatures asks the kernel what an interface's driver can do.
func xdpFeatures(index int) (uint64, error) {
	family, err := netlink.GenlFamilyGet(netdevFamily)
	if err != nil {
		return 0, err
	}
	req := nl.NewNetlinkRequest(int(family.ID), 0)
	req.AddData(&nl.Genlmsg{Command: netdevCmdDevGet, Version: uint8(family.Version)})
	req.AddData(nl.NewRtAttr(netdevAttrIfindex, nl.Uint32Attr(uint32(index))))
	msgs, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return 0, err
	}
	for _, m := range msgs {
		if len(m) < nl.SizeofGenlmsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofGenlmsg:])
		if err != nil {
			return 0, err
		}
		for _, a := range attrs {
			if a.Attr.Type == netdevAttrXDP && len(a.Value) == 8 {
				return nl.NativeEndian().Uint64(a.Value), nil
			}
		}
	}
	return 0, errors.New("no answer about XDP")
}

// nativeDrivers do XDP, for kernels that cannot be asked (before 6.3).
var nativeDrivers = func() map[string]bool {
	known := map[string]bool{}
	for _, d := range strings.Fields(`
		atlantic bnxt_en bonding cpsw dpaa2-eth ena fec fsl_dpaa fsl_enetc funeth gve
		hv_netvsc i40e iavf ice igb igc ixgbe ixgbevf lan966x-switch mana mlx4_en mlx5_core
		mtk_soc_eth mvneta mvpp2 netsec nfp nicvf octeontx2-nicpf qede sfc stmmac
		tsnep tun veth virtio_net vmxnet3 xen-netfront`) {
		known[d] = true
	}
	return known
}()
