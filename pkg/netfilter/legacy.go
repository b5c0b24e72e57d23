package netfilter

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// A legacyFirewall is what the kernel has rules of iptables-legacy in, for one family.
type legacyFirewall struct {
	name          string // of its program
	tables        string // the file that lists its tables in this thread's network namespace
	family, level int
}

var (
	iptablesLegacy  = legacyFirewall{"iptables-legacy", "/proc/thread-self/net/ip_tables_names", unix.AF_INET, unix.IPPROTO_IP}
	ip6tablesLegacy = legacyFirewall{"ip6tables-legacy", "/proc/thread-self/net/ip6_tables_names", unix.AF_INET6, unix.IPPROTO_IPV6}
)

// legacyOf is the one that packets of an address's family meet.
func legacyOf(a netip.Addr) legacyFirewall {
	if a.Is6() {
		return ip6tablesLegacy
	}
	return iptablesLegacy
}

// legacyInfo is struct ipt_getinfo, and ip6t_getinfo (linux/netfilter_ipv4/ip_tables.h,
// linux/netfilter_ipv6/ip6_tables.h). The arrays are indexed by hook.
type legacyInfo struct {
	name      [32]byte
	hooks     uint32
	entry     [5]uint32 // where a hook's rules begin
	underflow [5]uint32 // where its policy is
	entries   uint32
	size      uint32
}

const getInfo = 64 // IPT_SO_GET_INFO, IP6T_SO_GET_INFO

// legacyWarnings warns of rules of iptables-legacy on the prerouting and input
// hooks that packets to these listeners meet. A table without rules is no news:
// listing it once creates it.
func legacyWarnings(served []lb.Listener) ([]string, error) {
	var lines []string
	for _, f := range []legacyFirewall{iptablesLegacy, ip6tablesLegacy} {
		if !slices.ContainsFunc(served, func(l lb.Listener) bool { return legacyOf(l.Addr) == f }) {
			continue
		}
		for _, name := range []string{"raw", "filter"} { // mangle and nat are not for dropping
			if isThere, err := f.hasTable(name); err != nil {
				return nil, err
			} else if !isThere {
				continue
			}
			if used, err := f.tableHasRules(name); err != nil {
				lines = append(lines, fmt.Sprintf("netfilter: table %s of %s cannot be read (does it drop packets to VIPs? XDP is before it): %v", name, f.name, err))
			} else if used {
				lines = append(lines, fmt.Sprintf("netfilter: %s has rules in table %s, which lvx cannot read (do they drop packets to VIPs? XDP is before them)", f.name, name))
			}
		}
	}
	return lines, nil
}

// hasTable reports whether there is a table.
func (f legacyFirewall) hasTable(name string) (bool, error) {
	text, err := os.ReadFile(f.tables)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return slices.Contains(strings.Fields(string(text)), name), err
}

// tableHasRules reports whether packets to this host meet rules of a table.
func (f legacyFirewall) tableHasRules(name string) (bool, error) {
	const prerouting, input = 0, 1 // NF_INET_PRE_ROUTING, NF_INET_LOCAL_IN
	fd, err := unix.Socket(f.family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var info legacyInfo
	copy(info.name[:len(info.name)-1], name)
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(f.level), getInfo,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return false, errno
	}
	for _, hook := range []int{prerouting, input} {
		if info.hooks&(1<<hook) != 0 && info.entry[hook] != info.underflow[hook] {
			return true, nil
		}
	}
	return false, nil
}
