package health_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/health"
)

var (
	loopback  = netip.MustParseAddr("127.0.0.1")
	loopback6 = netip.MustParseAddr("::1")
)

// patience is the timeout of checks that are not to reach it; impatience
// that of those that are.
const (
	patience   = time.Minute
	impatience = 100 * time.Millisecond
)

// try asks once. A zero timeout in the spec becomes a long one.
func try(t *testing.T, s health.Spec, port uint16) error {
	t.Helper()
	return tryAt(t, health.Target{Spec: s, Real: loopback, Port: port})
}

func tryAt(t *testing.T, tgt health.Target) error {
	t.Helper()
	if tgt.Spec.Timeout == 0 {
		tgt.Spec.Timeout = patience
	}
	c, err := health.New(tgt)
	if err != nil {
		t.Fatal(err)
	}
	return c.Check(t.Context())
}

// expect compares an error's text; "" is a pass. A want that ends in "..."
// is the beginning.
func expect(t *testing.T, what string, err error, want string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
	}
	if start, ok := strings.CutSuffix(want, "..."); ok && strings.HasPrefix(got, start) {
		return
	}
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// serve accepts connections on an address of loopback and hands them to f,
// each in a goroutine of its own, until the test ends.
func serve(t *testing.T, addr netip.Addr, f func(net.Conn)) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c)
			}()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return portOf(t, l.Addr())
}

func portOf(t *testing.T, a net.Addr) uint16 {
	t.Helper()
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		t.Fatal(err)
	}
	return ap.Port()
}

// silent reads and never answers.
func silent(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// says writes a text and then is silent.
func says(text string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = io.WriteString(c, text)
		silent(c)
	}
}

// closed is a port that nobody listens on.
func closed(t *testing.T, network string) uint16 {
	t.Helper()
	var c io.Closer
	var a net.Addr
	if network == "udp4" {
		p, err := net.ListenPacket(network, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		c, a = p, p.LocalAddr()
	} else {
		l, err := net.Listen(network, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		c, a = l, l.Addr()
	}
	port := portOf(t, a)
	c.Close()
	return port
}

// full is a port whose queue of connections has no room: the kernel drops
// every SYN, as a firewall would.
func full(t *testing.T) uint16 {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: loopback.As4()}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(sa.(*unix.SockaddrInet4).Port)
	d := net.Dialer{Timeout: impatience}
	for {
		c, err := d.Dial("tcp4", netip.AddrPortFrom(loopback, port).String())
		if err != nil {
			return port
		}
		t.Cleanup(func() { c.Close() })
	}
}

func TestTCP(t *testing.T) {
	banner := serve(t, loopback, says("220 mail.example.org\x1b[31m ready\r\n"))
	mute := serve(t, loopback, silent)
	echo := serve(t, loopback, func(c net.Conn) { _, _ = io.Copy(c, c) })
	quits := serve(t, loopback, func(net.Conn) {})
	for what, tc := range map[string]struct {
		port uint16
		spec health.Spec
		want string
	}{
		"open":           {mute, health.Spec{}, ""},
		"closed":         {closed(t, "tcp4"), health.Spec{}, "tcp connect: refused"},
		"dropped":        {full(t), health.Spec{Timeout: impatience}, "tcp connect: timeout after 100ms"},
		"banner":         {banner, health.Spec{Expect: "220 "}, ""},
		"another banner": {banner, health.Spec{Expect: "220 mail.example.org?"}, `tcp reply: "220 mail.example.org?" (want "220 mail.example.org?")`},
		"echo":           {echo, health.Spec{Send: "PING\r\n", Expect: "PING"}, ""},
		"no reply":       {mute, health.Spec{Send: "x", Expect: "y", Timeout: impatience}, "tcp reply: timeout after 100ms"},
		"early end":      {quits, health.Spec{Expect: "220 "}, `tcp reply: "" (want "220 ")`},
		"source":         {mute, health.Spec{Source: netip.MustParseAddr("127.0.0.9")}, ""},
		"foreign source": {mute, health.Spec{Source: netip.MustParseAddr("192.0.2.1")}, "tcp connect: not asked: cannot assign requested address"},
	} {
		tc.spec.Type = health.TCP
		expect(t, what, try(t, tc.spec, tc.port), tc.want)
	}
}

func TestTCP6(t *testing.T) {
	port := serve(t, loopback6, silent)
	for what, s := range map[string]health.Spec{"plain": {}, "source": {Source: loopback6}} {
		s.Type = health.TCP
		expect(t, what, tryAt(t, health.Target{Spec: s, Real: loopback6, Port: port}), "")
	}
}

// A probe must not leave a TIME_WAIT: thousands a second would use up the
// local ports.
func TestProbesLeaveNoTimeWait(t *testing.T) {
	ended := make(chan error, 1)
	port := serve(t, loopback, func(c net.Conn) {
		_, err := c.Read(make([]byte, 1))
		ended <- err
	})
	expect(t, "probe", try(t, health.Spec{Type: health.TCP}, port), "")
	if err := <-ended; !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the server saw %v, want a reset", err)
	}
}

func TestUDP(t *testing.T) {
	udp := func(f func(p net.PacketConn, b []byte, from net.Addr)) uint16 { return serveUDP(t, f) }
	echo := udp(func(p net.PacketConn, b []byte, from net.Addr) { _, _ = p.WriteTo(b, from) })
	mute := udp(func(net.PacketConn, []byte, net.Addr) {})
	empty := udp(func(p net.PacketConn, _ []byte, from net.Addr) { _, _ = p.WriteTo(nil, from) })
	for what, tc := range map[string]struct {
		port uint16
		spec health.Spec
		want string
	}{
		"any reply":             {echo, health.Spec{Send: "x"}, ""},
		"empty reply":           {empty, health.Spec{}, ""},
		"the reply":             {echo, health.Spec{Send: "ping pong", Expect: "ping"}, ""},
		"another reply":         {echo, health.Spec{Send: "pang", Expect: "ping"}, `udp reply: "pang" (want "ping")`},
		"empty is not expected": {empty, health.Spec{Expect: "x"}, `udp reply: "" (want "x")`},
		"silence":               {mute, health.Spec{Timeout: impatience}, ""},
		"silence to a question": {mute, health.Spec{Send: "x", Timeout: impatience}, "udp reply: timeout after 100ms"},
		"closed":                {closed(t, "udp4"), health.Spec{}, "udp reply: refused"},
	} {
		tc.spec.Type = health.UDP
		expect(t, what, try(t, tc.spec, tc.port), tc.want)
	}
}

// serveUDP hands every datagram to f until the test ends.
func serveUDP(t *testing.T, f func(p net.PacketConn, b []byte, from net.Addr)) uint16 {
	t.Helper()
	p, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			n, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			f(p, b[:n], from)
		}
	}()
	t.Cleanup(func() {
		p.Close()
		<-done
	})
	return portOf(t, p.LocalAddr())
}

func TestICMP(t *testing.T) {
	expect(t, "loopback", try(t, health.Spec{Type: health.ICMP}, 0), "")
	expect(t, "source", try(t, health.Spec{Type: health.ICMP, Source: netip.MustParseAddr("127.0.0.9")}, 0), "")
	expect(t, "IPv6", tryAt(t, health.Target{Spec: health.Spec{Type: health.ICMP}, Real: loopback6}), "")
}

func TestNewRefuses(t *testing.T) {
	vip := netip.MustParseAddr("192.0.2.100")
	for want, tgt := range map[string]health.Target{
		`check type "gopher" (known: `:      {Spec: health.Spec{Type: "gopher"}, Real: loopback},
		"tcp check of no address":           {Spec: health.Spec{Type: health.TCP}},
		"no path to it here":                {Spec: health.Spec{Type: health.TCP}, Real: loopback, VIP: vip},
		"silence proves nothing":            {Spec: health.Spec{Type: health.UDP}, Real: loopback, VIP: vip},
		"exec check without a command":      {Spec: health.Spec{Type: health.Exec}},
		`query type "WKS"`:                  {Spec: health.Spec{Type: health.DNS, QType: "WKS"}, Real: loopback},
		"dns check: query":                  {Spec: health.Spec{Type: health.DNS, Query: strings.Repeat("a", 64) + ".example"}, Real: loopback},
		`status "2xx"`:                      {Spec: health.Spec{Type: health.HTTP, Status: "2xx"}, Real: loopback},
		`status "200,299-200" (want`:        {Spec: health.Spec{Type: health.HTTP, Status: "200,299-200"}, Real: loopback},
		`path "x" (must begin with /)`:      {Spec: health.Spec{Type: health.HTTP, Path: "x"}, Real: loopback},
		`path "/ HTTP/1.0\r\n" (blanks`:     {Spec: health.Spec{Type: health.HTTP, Path: "/ HTTP/1.0\r\n"}, Real: loopback},
		`host "a\nb" (blanks`:               {Spec: health.Spec{Type: health.HTTP, Host: "a\nb"}, Real: loopback},
		`method "GET /x" (blanks`:           {Spec: health.Spec{Type: health.HTTP, Method: "GET /x"}, Real: loopback},
		"http check: match: ":               {Spec: health.Spec{Type: health.HTTP, Match: "("}, Real: loopback},
		"http check: no_match: ":            {Spec: health.Spec{Type: health.HTTP, NoMatch: "("}, Real: loopback},
		`TLS version "1.4" (known`:          {Spec: health.Spec{Type: health.HTTPS, TLSMin: "1.4"}, Real: loopback},
		`cipher suite "RC5" is not known`:   {Spec: health.Spec{Type: health.HTTPS, TLSCiphers: "RC5"}, Real: loopback},
		`helo "a b" (want`:                  {Spec: health.Spec{Type: health.SMTP, Helo: "a b"}, Real: loopback},
		`file check: "state" (want the abs`: {Spec: health.Spec{Type: health.File, File: "state"}},
	} {
		if _, err := health.New(tgt); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// A check that is broken off does not wait for its timeout.
func TestCancel(t *testing.T) {
	port := serve(t, loopback, silent)
	for _, tgt := range []health.Target{
		{Spec: health.Spec{Type: health.TCP, Expect: "x"}, Port: port},
		{Spec: health.Spec{Type: health.UDP}, Port: serveUDP(t, func(net.PacketConn, []byte, net.Addr) {})},
		{Spec: health.Spec{Type: health.HTTP}, Port: port},
		{Spec: health.Spec{Type: health.HTTPS}, Port: port},
		{Spec: health.Spec{Type: health.Exec, Argv: "/bin/sleep\n1000"}},
	} {
		tgt.Real, tgt.Spec.Timeout = loopback, time.Hour
		c, err := health.New(tgt)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		if err := c.Check(ctx); err == nil {
			t.Errorf("%s: passed", tgt.Spec.Type)
		}
	}
}
