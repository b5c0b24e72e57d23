package hostinfo

import (
	"encoding/binary"
	"fmt"
	"os"
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
	stringsHeader  = 12
	statsHeader    = 8
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
	if info.N_stats > mostStatistics {
		return nil, nil, fmt.Errorf("%d of them (lvx reads %d at most)", info.N_stats, mostStatistics)
	}
	n := int(info.N_stats)
	if n == 0 {
		return nil, nil, nil
	}
	text, free, err := allocGuarded(stringsHeader + n*statisticName)
	if err != nil {
		return nil, nil, err
	}
	defer free()
	count, free, err := allocGuarded(statsHeader + n*8)
	if err != nil {
		return nil, nil, err
	}
	defer free()
	for i, word := range []uint32{unix.ETHTOOL_GSTRINGS, statisticsSet, uint32(n)} {
		binary.NativeEndian.PutUint32(text[4*i:], word)
	}
	for i, word := range []uint32{unix.ETHTOOL_GSTATS, uint32(n)} {
		binary.NativeEndian.PutUint32(count[4*i:], word)
	}
	for _, request := range [][]byte{text, count} {
		if err := ethtool(fd, name, unsafe.Pointer(&request[0])); err != nil {
			return nil, nil, err
		}
	}
	// Of a driver that was changed meanwhile, what both have.
	n = min(n, int(binary.NativeEndian.Uint32(text[8:])), int(binary.NativeEndian.Uint32(count[4:])))
	for i := range n {
		names = append(names, unix.ByteSliceToString(text[stringsHeader+i*statisticName:][:statisticName]))
		values = append(values, binary.NativeEndian.Uint64(count[statsHeader+i*8:]))
	}
	return names, values, nil
}

// allocGuarded gives memory with an end that nobody can write beyond: the kernel
// copies as many statistics as the driver has at that moment, whatever room it was
// told of, and fails with EFAULT at the page that follows.
func allocGuarded(size int) (data []byte, free func(), err error) {
	page := os.Getpagesize()
	room := (size + page - 1) / page * page
	all, err := unix.Mmap(-1, 0, room+page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, nil, fmt.Errorf("memory: %w", err)
	}
	free = func() { _ = unix.Munmap(all) }
	if err := unix.Mprotect(all[room:], unix.PROT_NONE); err != nil {
		free()
		return nil, nil, fmt.Errorf("guard page: %w", err)
	}
	return all[room-size : room], free, nil
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
