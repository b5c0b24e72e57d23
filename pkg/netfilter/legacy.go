package netfilter

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tableNames lists the tables of iptables-legacy in this thread's network
// namespace.
const tableNames = "/proc/thread-self/net/ip_tables_names"

// legacyInfo is struct ipt_getinfo (linux/netfilter_ipv4/ip_tables.h). The
// arrays are indexed by hook.
type legacyInfo struct {
	name      [32]byte
	hooks     uint32
	entry     [5]uint32 // where a hook's rules begin
	underflow [5]uint32 // where its policy is
	entries   uint32
	size      uint32
}

const getInfo = 64 // IPT_SO_GET_INFO

// legacyWarnings warns of rules of iptables-legacy on the prerouting and input
// hooks. A table without rules is no news: listing it once creates it.
func legacyWarnings() ([]string, error) {
	text, err := os.ReadFile(tableNames)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var lines []string
	there := strings.Fields(string(text))
	for _, name := range []string{"raw", "filter"} { // mangle and nat are not for dropping
		if !slices.Contains(there, name) {
			continue
		}
		if used, err := tableHasRules(name); err != nil {
			lines = append(lines, fmt.Sprintf("netfilter: table %s of iptables-legacy cannot be read (does it drop packets to VIPs? XDP is before it): %v", name, err))
		} else if used {
			lines = append(lines, fmt.Sprintf("netfilter: iptables-legacy has rules in table %s, which lvx cannot read (do they drop packets to VIPs? XDP is before them)", name))
		}
	}
	return lines, nil
}

// tableHasRules reports whether packets to this host meet rules of a table.
func tableHasRules(name string) (bool, error) {
	const prerouting, input = 0, 1 // NF_INET_PRE_ROUTING, NF_INET_LOCAL_IN
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var info legacyInfo
	copy(info.name[:len(info.name)-1], name)
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_IP, getInfo,
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
