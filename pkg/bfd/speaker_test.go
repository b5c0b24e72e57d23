package bfd

import (
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	here  = netip.MustParseAddr("127.0.0.1")
	there = netip.MustParseAddr("127.0.0.2")
)

// slowly has no timer that matters within a test.
var slowly = Timing{MinTx: time.Minute, MinRx: time.Minute, IdleTx: time.Minute, Multiplier: 3}

func segment(name string, neighbour netip.Addr) Session {
	return Session{Name: name, Neighbour: neighbour, Source: here, Timing: slowly, TTL: 255}
}

// newTestSpeaker has ports of the kernel's choice: nobody else can take them, and
// what it sends goes nowhere.
func newTestSpeaker(t *testing.T) (*Speaker, chan Status) {
	t.Helper()
	reports := make(chan Status, 16)
	s := NewSpeaker(func(st Status) { reports <- st })
	s.ports = [2]uint16{}
	t.Cleanup(s.Close)
	return s, reports
}

func TestSpeakerOverSockets(t *testing.T) {
	s, reports := newTestSpeaker(t)
	if err := s.Apply([]Session{segment("r1", there)}); err != nil {
		t.Fatal(err)
	}
	at := s.receivers[port{}].conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	out := &sender{from: there, to: netip.AddrPortFrom(here, at), ttl: 255}
	defer out.close()
	far := &sender{from: there, to: out.to, ttl: 254} // over a router
	defer far.close()
	p := Packet{State: Init, Multiplier: 3, MyDiscriminator: 5, YourDiscriminator: s.byName["r1"].local,
		DesiredMinTx: time.Minute, RequiredMinRx: time.Minute}
	if err := far.send(p.Append(nil)); err != nil { // would take the session up
		t.Fatal(err)
	}
	p.State, p.YourDiscriminator = Down, 0
	if err := out.send(p.Append(nil)); err != nil {
		t.Fatal(err)
	}
	if st := <-reports; st.State != Init {
		t.Fatalf("session is %v, want init", st.State)
	}
	p.State, p.YourDiscriminator = Up, s.byName["r1"].local+1
	if err := out.send(p.Append(nil)); err != nil { // names another session
		t.Fatal(err)
	}
	p.State, p.YourDiscriminator = Init, s.byName["r1"].local
	if err := out.send(p.Append(nil)); err != nil {
		t.Fatal(err)
	}
	if st := <-reports; st.State != Up || st.NeighbourState != Init {
		t.Errorf("session is %v, neighbour %v, want up by init", st.State, st.NeighbourState)
	}
	if st, isThere := s.Find("r1"); !isThere || st.State != Up {
		t.Errorf("found %+v, %v", st, isThere)
	}
	if got := s.Status(); len(got) != 1 || got[0].State != Up {
		t.Errorf("status %+v", got)
	}
	if err := s.Apply(nil); err != nil {
		t.Fatal(err)
	}
	if st := <-reports; st.State != AdminDown {
		t.Errorf("a session that ends is %v, want admin down", st.State)
	}
	if _, isThere := s.Find("r1"); isThere {
		t.Error("a session that has ended is there")
	}
}

func TestSocketCarriesTTL(t *testing.T) {
	for _, a := range []netip.Addr{here, netip.IPv6Loopback()} {
		r, err := openReceiver(a.Is6(), 0)
		if a.Is6() && strings.Contains(errorText(err), syscall.EAFNOSUPPORT.Error()) {
			continue // a kernel without IPv6
		}
		if err != nil {
			t.Fatal(err)
		}
		defer r.close()
		port := r.conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		for _, ttl := range []uint8{255, 64, 1} {
			out := &sender{to: netip.AddrPortFrom(a, port), ttl: ttl}
			if err := out.send([]byte("x")); err != nil {
				t.Fatal(err)
			}
			from := out.conn.LocalAddr().(*net.UDPAddr).Port
			var b [64]byte
			d, err := r.read(b[:])
			if err != nil || d.ttl != ttl || d.from != a || string(d.payload) != "x" {
				t.Errorf("read %+v, %v, want TTL %d from %v", d, err, ttl, a)
			}
			if from < firstSourcePort {
				t.Errorf("sent from port %d", from)
			}
			out.close()
			if err := out.send(nil); err == nil {
				t.Error("a closed sender sends")
			}
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestAcceptsTTL(t *testing.T) {
	for _, c := range []struct {
		ttl, maxHops, got uint8
		want              bool
	}{
		{255, 0, 255, true}, {255, 0, 254, false}, {255, 1, 254, true}, {255, 1, 253, false},
		{255, 255, 1, true}, {64, 0, 64, true}, {64, 0, 63, false}, {64, 0, 255, true}, {255, 0, 0, false},
	} {
		if got := (Session{TTL: c.ttl, MaxHops: c.maxHops}).acceptsTTL(c.got); got != c.want {
			t.Errorf("TTL %d, max_hops %d: accepts %d: %v", c.ttl, c.maxHops, c.got, got)
		}
	}
}

func TestApplyKeepsWhatIsTheSame(t *testing.T) {
	s, _ := newTestSpeaker(t)
	one, two := segment("one", there), segment("two", netip.MustParseAddr("127.0.0.3"))
	if err := s.Apply([]Session{one, two}); err != nil {
		t.Fatal(err)
	}
	stays, leaves := s.byName["one"], s.byName["two"]
	one.Timing.Multiplier, two.IsPassive = 9, true
	if err := s.Apply([]Session{one, two}); err != nil {
		t.Fatal(err)
	}
	if s.byName["one"] != stays || s.byName["two"] == leaves {
		t.Error("another multiplier began the session anew, or another role did not")
	}
	if err := s.Apply([]Session{one}); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, st := range s.Status() {
		names = append(names, st.Name)
	}
	if diff := cmp.Diff([]string{"one"}, names); diff != "" || len(s.locals) != 1 || len(s.byPeer) != 1 {
		t.Errorf("sessions (-want +got):\n%s", diff)
	}
}

func TestPortThatIsTaken(t *testing.T) {
	s, _ := newTestSpeaker(t)
	other, err := openReceiver(false, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	s.ports[0] = other.conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	err = s.Apply([]Session{segment("one", there)})
	if err == nil || !strings.Contains(err.Error(), "another BFD daemon") {
		t.Errorf("error %v", err)
	}
	if err := TryPorts(nil); err != nil {
		t.Errorf("no port is wanted: %v", err)
	}
	s.ports[0] = 0
	if err := s.Apply([]Session{segment("one", there)}); err != nil || len(s.receivers) != 1 {
		t.Errorf("with a port that is free: %v, %d ports", err, len(s.receivers))
	}
}

func TestApplyRefuses(t *testing.T) {
	s, _ := newTestSpeaker(t)
	zero, six := segment("a", there), segment("a", netip.IPv6Loopback())
	zero.Timing.MinRx = 0
	for want, sessions := range map[string][]Session{
		"twice":       {segment("a", there), segment("a", here)},
		"has one":     {segment("a", there), segment("b", there)},
		"is 0":        {zero},
		"source 127.": {six},
	} {
		if err := s.Apply(sessions); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if len(s.Status()) != 0 {
		t.Error("a refused list has sessions")
	}
}
