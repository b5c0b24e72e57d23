package hostinfo

import (
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DriverErrors are the counters of `ethtool -S` by which an interface's driver
// says that it did not do what XDP asked: frames that it could not send or
// redirect. Those of queues are added up. A driver without statistics has none.
func DriverErrors(name string) (map[string]uint64, error) {
	names, values, err := driverStatistics(name)
	if err != nil {
		return nil, fmt.Errorf("statistics of %s: %w", name, err)
	}
	return sumErrors(names, values), nil
}

// sumErrors picks the errors of XDP out of a driver's statistics. Drivers name
// them as they like: rx_queue_0_xdp_tx_errors (veth), rx0_xdp_tx_drops
// (virtio_net), rx_xdp_tx_full and rx3_xdp_tx_full (mlx5, the first one being the
// sum).
func sumErrors(names []string, values []uint64) map[string]uint64 {
	sums, isSum := map[string]uint64{}, map[string]bool{}
	for i, name := range names {
		if !isXDPError(name) {
			continue
		}
		all := queueNumber.ReplaceAllString(name, "")
		switch {
		case all == name:
			sums[all], isSum[all] = values[i], true
		case !isSum[all]:
			sums[all] += values[i]
		}
	}
	return sums
}

// queueNumber is what tells the queues apart in a counter's name.
var queueNumber = regexp.MustCompile(`(_queue)?_?[0-9]+`)

// isXDPError reports whether a counter counts frames that were not sent. What a
// program dropped on purpose (xdp_drop) is none.
func isXDPError(name string) bool {
	at := strings.Index(name, "xdp")
	if at < 0 {
		return false
	}
	what := name[at:]
	for _, word := range []string{"err", "full", "fail", "exception", "abort", "invalid", "tx_drop", "xmit_drop"} {
		if strings.Contains(what, word) {
			return true
		}
	}
	return false
}

// Of struct ethtool_gstrings and ethtool_stats (include/uapi/linux/ethtool.h).
const (
	statisticsSet  = 1 // ETH_SS_STATS
	statisticName  = 32
	mostStatistics = 1 << 16
)

// driverStatistics asks what `ethtool -S` prints.
func driverStatistics(name string) (names []string, values []uint64, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	if err != nil {
		return nil, nil, err
	}
	n := int(min(info.N_stats, mostStatistics))
	if n == 0 {
		return nil, nil, nil
	}
	text := make([]uint32, 3+n*statisticName/4)
	text[0], text[1], text[2] = unix.ETHTOOL_GSTRINGS, statisticsSet, uint32(n)
	if err := ethtool(fd, name, unsafe.Pointer(&text[0])); err != nil {
		return nil, nil, err
	}
	count := make([]uint64, 1+n)
	head := (*[2]uint32)(unsafe.Pointer(&count[0]))
	head[0], head[1] = unix.ETHTOOL_GSTATS, uint32(n)
	if err := ethtool(fd, name, unsafe.Pointer(&count[0])); err != nil {
		return nil, nil, err
	}
	n = min(n, int(text[2]), int(head[1])) // a driver that was changed meanwhile
	all := unsafe.Slice((*byte)(unsafe.Pointer(&text[3])), n*statisticName)
	for i := range n {
		names = append(names, unix.ByteSliceToString(all[i*statisticName:(i+1)*statisticName]))
	}
	return names, count[1 : 1+n], nil
}

// ethtool asks a driver by SIOCETHTOOL; data begins with the command.
func ethtool(fd int, name string, data unsafe.Pointer) error {
	req := struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: data}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(data)
	if errno != 0 {
		return errno
	}
	return nil
}
