package oracle

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// The oracle is no authority by itself: these are samples of what the kernel
// was seen to do (ipvs-facts). The packet path replays all of it, and the
// differential test says that both are the same.

var (
	mac = [6]byte{2, 0, 0, 0, 0, 1}
	vip = netip.MustParseAddr("10.0.0.100")
)

func segment(a netip.Addr) Host {
	b := a.As4()
	return Host{MAC: [6]byte{2, 0, b[0], b[1], b[2], b[3]}, Source: mac, IfIndex: 1, MTU: 1500}
}

func director(s lb.Service, weights ...uint16) *Director {
	s.Name = "web"
	if s.Listeners == nil {
		s.Listeners = []lb.Listener{{Addr: vip, Proto: lb.TCP, First: 80, Last: 80}}
	}
	for i, w := range weights {
		s.Reals = append(s.Reals, lb.Real{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(11 + i)}), Weight: w})
	}
	d := New(World{MAC: mac, IfIndex: 1, Tick: time.Second, Host: segment})
	d.Apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{s}})
	return d
}

// tcp sends a TCP packet of 172.16.0.c and returns the number of its real, "-"
// without one.
func (d *Director) tcp(c byte, port uint16, flags byte) string {
	f := make([]byte, 60)
	copy(f, mac[:])
	copy(f[12:], []byte{8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 172, 16, 0, c, 10, 0, 0, 100})
	binary.BigEndian.PutUint16(f[34:], port)
	f[37], f[47] = 80, flags
	o := d.Packet(f)
	if o.Action != Transmit || !o.Real.IsValid() {
		return "-"
	}
	return fmt.Sprint(o.Real.As4()[3] - 10)
}

const syn, ack, fin, rst = 2, 16, 1, 4

func TestOrders(t *testing.T) {
	for _, c := range []struct {
		scheduler lb.Scheduler
		weights   []uint16
		want      string
	}{
		{lb.RR, []uint16{1, 1, 1}, "3 2 1 3 2 1"},
		{lb.RR, []uint16{1, 5, 0}, "2 1 2 1"},
		{lb.WRR, []uint16{1, 2}, "2 1 2 2 1 2"},
		{lb.WRR, []uint16{3, 1, 2}, "3 2 1 1 3 1 3 2 1 1 3 1"},
		{lb.WRR, []uint16{6, 2, 4}, "3 2 1 1 3 1"},
		{lb.WRR, []uint16{7, 3, 2}, "3 2 1 1 1 1 1 2 1 3 2 1"},
		{lb.WRR, []uint16{0, 0}, "- - -"},
		{lb.LC, []uint16{1, 1, 1}, "3 2 1 3 2 1"},
		{lb.LC, []uint16{3, 1, 2}, "3 2 1 3 2 1"},
	} {
		d := director(lb.Service{Scheduler: c.scheduler}, c.weights...)
		var got []string
		for i := range strings.Fields(c.want) {
			got = append(got, d.tcp(5, uint16(1000+i), syn))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s %v: got %v, want %s", c.scheduler, c.weights, got, c.want)
		}
	}
}

// ipvs-facts/03, the first 64 clients of two configurations.
func TestSourceHash(t *testing.T) {
	for _, c := range []struct {
		flags   lb.SchedFlags
		weights []uint16
		want    string
	}{
		{0, []uint16{3, 1, 2}, "3213131121311113132321313132121111113133131323232131121213111131"},
		{0, []uint16{1, 0, 1}, "31--3-3-1-3-131--31311-3-331-131313-3-3-1-1-131313-311-1-33131--"},
		{lb.SHFallback, []uint16{1, 0, 1}, "3111313111311311131311131331113131313131111113131313111113313111"},
		{lb.SHPort, []uint16{3, 1, 2}, "1321313132321311112131111313232131321212111111313313132323313112"},
	} {
		d := director(lb.Service{Scheduler: lb.SH, Flags: c.flags}, c.weights...)
		got := ""
		for i := range 64 {
			got += d.tcp(byte(i), 1024, syn)
		}
		if got != c.want {
			t.Errorf("flags %d weights %v:\n got %s\nwant %s", c.flags, c.weights, got, c.want)
		}
	}
}

// ipvs-facts/17: Maglev hashing, by client, and by port with the fallback.
func TestMaglev(t *testing.T) {
	d := director(lb.Service{Scheduler: lb.MH}, 1, 1, 1)
	f := director(lb.Service{Scheduler: lb.MH, Flags: lb.MHPort | lb.MHFallback}, 1, 0, 1)
	byClient, byPort := "", ""
	for i := range 64 {
		byClient += d.tcp(byte(i), 1024, syn)
		byPort += f.tcp(5, uint16(20000+i), syn)
	}
	if want := "2213313123213312333322131133313213213211223213322213212211112123"; byClient != want {
		t.Errorf("by client\n got %s\nwant %s", byClient, want)
	}
	if want := "1113313331133331331331133313331133113331133113111133313311333311"; byPort != want {
		t.Errorf("by port\n got %s\nwant %s", byPort, want)
	}
}

// ipvs-facts/06, a column of each state.
func TestOneWayTable(t *testing.T) {
	for _, c := range []struct {
		flags []byte
		want  string
	}{
		{[]byte{syn}, "SYN_RECV"}, {[]byte{syn, ack}, "ESTABLISHED"}, {[]byte{syn, rst}, "SYN_RECV"}, {[]byte{syn, 0}, "CLOSE"},
		{[]byte{syn, fin}, "TIME_WAIT"}, {[]byte{syn, ack, fin | ack}, "FIN_WAIT"}, {[]byte{syn, ack, fin, syn}, "SYN_RECV"},
		{[]byte{syn, ack, rst}, "CLOSE"}, {[]byte{syn, ack, rst, ack}, "CLOSE"}, {[]byte{syn, fin, ack}, "TIME_WAIT"},
		{[]byte{syn, ack, syn}, "ESTABLISHED"}, {[]byte{syn, ack, 0}, "CLOSE"}, {[]byte{syn | ack}, "SYN_RECV"},
	} {
		d := director(lb.Service{Scheduler: lb.RR}, 1)
		for _, f := range c.flags {
			d.tcp(5, 1000, f)
		}
		if all := d.Connections(); len(all) != 1 || all[0].State != c.want {
			t.Errorf("%v: %+v, want %s", c.flags, all, c.want)
		}
	}
}

func TestChecksum(t *testing.T) { // RFC 1071, section 3
	if got := Checksum([]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}); got != ^uint16(0xddf2) {
		t.Errorf("got %04x, want %04x", got, ^uint16(0xddf2))
	}
}
