package failover

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
)

// syn is a frame that opens a TCP connection with the VIP.
func syn(to, from net.HardwareAddr, port uint16) []byte {
	b := append(slices.Clone([]byte(to)), from...)
	b = append(b, 8, 0)
	ip := make([]byte, 40)
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], 40)
	copy(ip[12:], Addr("c").AsSlice())
	copy(ip[16:], VIP.AsSlice())
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum>>16+sum&0xffff))
	binary.BigEndian.PutUint16(ip[20:], port)
	binary.BigEndian.PutUint16(ip[22:], 80)
	ip[32], ip[33] = 0x50, 2
	return append(b, ip...)
}

// sentBy counts the frames that a router has put on the segment for, or in
// the name of, the VIP.
func sentBy(t *testing.T, c *testenv.Capture, router *testenv.Host) (n int) {
	t.Helper()
	vip := VIP.AsSlice()
	frames, err := c.Select(func(f testenv.Frame) bool {
		d := f.Data
		if len(d) < 42 || !bytes.Equal(d[6:12], router.MAC("eth0")) {
			return false
		}
		if d[12] == 8 && d[13] == 6 { // ARP: who it says it is
			return bytes.Equal(d[28:32], vip)
		}
		return d[12] == 8 && d[13] == 0 && d[23] != vrrpProtocol && (bytes.Equal(d[26:30], vip) || bytes.Equal(d[30:34], vip))
	})
	must(t, err)
	return len(frames)
}

// A backup is inert: frames for the VIP that reach it (a switch floods them
// when it does not know better) are neither forwarded nor answered, and so
// are those that reach a dead master whose lease is over.
func TestBackupIsInert(t *testing.T) {
	t.Parallel()
	p := newBalancingPair(t, v3tenth)
	c := p.Host("c")
	try := func(router string) int {
		t.Helper()
		at, err := p.Switch().Capture(router)
		must(t, err)
		defer at.Close()
		h := p.Host(router)
		for port := range uint16(20) {
			must(t, c.Send("eth0", syn(h.MAC("eth0"), c.MAC("eth0"), 50000+port)))
		}
		time.Sleep(300 * ms) // d asks for the VIP all the time
		return sentBy(t, at, h)
	}
	if n := try("a"); n < 20 {
		t.Errorf("the master sent %d frames only", n)
	}
	if n := try("b"); n != 0 {
		t.Errorf("the backup sent %d frames for the VIP", n)
	}
	p.a.Kill()
	p.await("b is master", func() error {
		if ok, err := p.Has("b", VIP); err != nil || !ok {
			return fmt.Errorf("no VIP on b: %v", err)
		}
		return nil
	})
	time.Sleep(time.Second)
	if n := try("b"); n < 20 {
		t.Errorf("the new master sent %d frames only", n)
	}
	if n := try("a"); n != 0 {
		t.Errorf("the dead master sent %d frames for the VIP", n)
	}
	if ok, err := p.Has("a", VIP); err != nil || !ok {
		t.Errorf("nobody took the VIP from the dead master: %v, %v", ok, err)
	}
}
