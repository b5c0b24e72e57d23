// Package hostinfo finds out what this machine can do: its kernel, its
// interfaces and their drivers, the kernel's IPVS. It changes nothing and
// decides nothing.
package hostinfo

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/backend/ipvs"
)

// Host is what this host can do.
type Host struct {
	Kernel     string // its release
	Recent     bool   // not older than [OldestKernel]
	BTF        string
	BPFFS      string
	CPUs       int // possible ones, for each of which the kernel keeps counters; 0: not known
	Interfaces []Interface
	IPVS       error // why kernel IPVS cannot be used
}

// Interface is what one interface can do.
type Interface struct {
	Name   string
	Err    error // it is not there
	Driver string
	MTU    int
	Up     bool
	Native bool // its driver does XDP itself
	Frags  bool // and with frames of several buffers

	NoEthernet bool // it has no Ethernet address
}

// The oldest kernel that can run the packet path: bpf_xdp_load_bytes and
// bpf_xdp_get_buff_len are of 5.18.
const oldestMajor, oldestMinor = 5, 18

// OldestKernel is the oldest release that the packet path runs on.
var OldestKernel = fmt.Sprintf("%d.%d", oldestMajor, oldestMinor)

// Examine looks at this host, and at the interfaces that are named.
func Examine(names []string) Host {
	h := Host{Kernel: "unknown", BTF: "no (kernel without CONFIG_DEBUG_INFO_BTF)", IPVS: ipvs.Available()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel = unix.ByteSliceToString(u.Release[:])
		h.Recent = recent(h.Kernel)
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err == nil {
		h.BTF = "yes"
	}
	h.BPFFS = bpffs("/sys/fs/bpf")
	if list, err := os.ReadFile("/sys/devices/system/cpu/possible"); err == nil {
		h.CPUs = countCPUs(strings.TrimSpace(string(list)))
	}
	for _, name := range names {
		h.Interfaces = append(h.Interfaces, examineInterface(name))
	}
	return h
}

// countCPUs reads a list like "0-3,8"; 0 if it is none.
func countCPUs(list string) (n int) {
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if err != nil || err2 != nil || to < from {
			return 0
		}
		n += to - from + 1
	}
	return n
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

// XDP returns why XDP cannot run on this host at all.
func (h Host) XDP() error {
	if err := WeakOrder(); err != nil {
		return err
	}
	if !h.Recent {
		return fmt.Errorf("kernel %s is older than %s", h.Kernel, OldestKernel)
	}
	return nil
}

func examineInterface(name string) Interface {
	r := Interface{Name: name}
	i, err := net.InterfaceByName(name)
	if err != nil {
		r.Err = err
		return r
	}
	r.MTU, r.Up, r.NoEthernet = i.MTU, i.Flags&net.FlagUp != 0, len(i.HardwareAddr) != 6
	r.Driver = driver(name)
	if f, err := xdpFeatures(i.Index); err == nil {
		r.Native, r.Frags = f&xdpBasic != 0, f&xdpFrags != 0
	} else {
		r.Native = nativeDrivers[r.Driver]
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

// String is the line of the report.
func (r Interface) String() string {
	if r.Err != nil {
		return "no such interface"
	}
	words := []string{"driver " + r.Driver, fmt.Sprintf("MTU %d", r.MTU)}
	if !r.Up {
		words = append(words, "down")
	}
	switch {
	case r.Native && r.Frags:
		words = append(words, "native XDP possible, frames of any size")
	case r.Native:
		words = append(words, "native XDP possible")
	default:
		words = append(words, "generic XDP only")
	}
	return strings.Join(words, ", ")
}
