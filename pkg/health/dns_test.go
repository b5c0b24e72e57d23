package health

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// answer builds a reply to a query.
func answer(t *testing.T, query []byte, change func(*dnsmessage.Message)) []byte {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		t.Error(err)
		return nil
	}
	m.Response = true
	change(&m)
	b, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return b
}

func record4(name string, body dnsmessage.ResourceBody) dnsmessage.Resource {
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET},
		Body:   body,
	}
}

// nameServer answers every query with what reply makes of it.
func nameServer(t *testing.T, reply func(query []byte) [][]byte) uint16 {
	t.Helper()
	p, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		b := make([]byte, 512)
		for {
			n, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			for _, r := range reply(b[:n]) {
				_, _ = p.WriteTo(r, from)
			}
		}
	}()
	t.Cleanup(func() {
		p.Close()
		<-done
	})
	return uint16(p.LocalAddr().(*net.UDPAddr).Port)
}

func TestDNS(t *testing.T) {
	rcode := func(c dnsmessage.RCode) func(*dnsmessage.Message) {
		return func(m *dnsmessage.Message) { m.RCode = c }
	}
	with := func(bodies ...dnsmessage.ResourceBody) func(*dnsmessage.Message) {
		return func(m *dnsmessage.Message) {
			for _, b := range bodies {
				m.Answers = append(m.Answers, record4("www.example.org.", b))
			}
		}
	}
	mail := dnsmessage.MustNewName("mail.example.org.")
	for _, tc := range []struct {
		spec   Spec
		change func(*dnsmessage.Message)
		want   string
	}{
		{Spec{}, rcode(0), ""},
		{Spec{}, rcode(dnsmessage.RCodeServerFailure), "dns SOA .: SERVFAIL"},
		{Spec{Query: "www.example.org", QType: "a"}, rcode(dnsmessage.RCodeNameError), "dns A www.example.org.: NXDOMAIN"},
		{Spec{}, rcode(9), "dns SOA .: error code 9"},
		{Spec{QType: "A", Expect: "192.0.2.7"}, with(&dnsmessage.AResource{A: [4]byte{192, 0, 2, 6}}, &dnsmessage.AResource{A: [4]byte{192, 0, 2, 7}}), ""},
		{Spec{QType: "A", Expect: "192.0.2.8"}, with(&dnsmessage.AResource{A: [4]byte{192, 0, 2, 7}}), `dns A .: no answer contains "192.0.2.8"`},
		{Spec{QType: "A", Expect: "192.0.2.8"}, rcode(0), `dns A .: no answer contains "192.0.2.8"`},
		{Spec{QType: "AAAA", Expect: "2001:db8::1"}, with(&dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("2001:db8::1").As16()}), ""},
		{Spec{QType: "MX", Expect: "10 mail.example.org."}, with(&dnsmessage.MXResource{Pref: 10, MX: mail}), ""},
		{Spec{QType: "NS", Expect: "mail"}, with(&dnsmessage.NSResource{NS: mail}), ""},
		{Spec{QType: "A", Expect: "mail"}, with(&dnsmessage.CNAMEResource{CNAME: mail}), ""},
		{Spec{QType: "TXT", Expect: "v=spf1 -all"}, with(&dnsmessage.TXTResource{TXT: []string{"v=spf1", " -all"}}), ""},
		{Spec{Expect: "mail.example.org. 42"}, with(&dnsmessage.SOAResource{NS: mail, MBox: mail, Serial: 42}), ""},
		{Spec{}, func(m *dnsmessage.Message) { m.Response = false }, "dns SOA .: not a DNS response"},
		{Spec{}, func(m *dnsmessage.Message) { m.Questions[0].Type = dnsmessage.TypeA }, "dns SOA .: answer to another question"},
	} {
		port := nameServer(t, func(q []byte) [][]byte {
			stale := answer(t, q, rcode(dnsmessage.RCodeRefused))
			stale[0]++ // somebody else's
			return [][]byte{stale, {q[0]}, answer(t, q, tc.change)}
		})
		tc.spec.Type, tc.spec.Timeout = DNS, time.Minute
		check(t, tc.spec, port, tc.want)
	}
	short := nameServer(t, func(q []byte) [][]byte { return [][]byte{q[:5]} })
	check(t, Spec{Type: DNS, Timeout: time.Minute}, short, "dns SOA .: not a DNS response")
	mute := nameServer(t, func([]byte) [][]byte { return nil })
	check(t, Spec{Type: DNS, Timeout: 50 * time.Millisecond}, mute, "dns SOA .: timeout after 50ms")
}

func check(t *testing.T, s Spec, port uint16, want string) {
	t.Helper()
	c, err := New(Target{Spec: s, Real: netip.MustParseAddr("127.0.0.1"), Port: port})
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	if err := c.Check(t.Context()); err != nil {
		got = err.Error()
	}
	if got != want {
		t.Errorf("%+v: %q, want %q", s, got, want)
	}
}

// Whatever a name server sends: no panic, and a reason that fits a log line.
func FuzzDNSReply(f *testing.F) {
	f.Add([]byte{0, 0, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 6, 0, 1, 0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0})
	f.Add([]byte{0, 0, 0x80})
	c, err := newDNS(Target{Spec: Spec{Type: DNS, Expect: "x"}.WithDefaults()}, dialer{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, reply []byte) {
		if err := c.(*dnsChecker).judgeReply(reply); err != nil && len(err.Error()) > 300 {
			t.Errorf("reason of %d bytes", len(err.Error()))
		}
	})
}

func FuzzEchoReply(f *testing.F) {
	reply := append([]byte{0x46, 23: 0}, echoRequestFor(7, false)...)
	reply[24] = echoReply
	f.Add(reply, uint64(7), false)
	f.Add([]byte{0x4f, 0}, uint64(0), false)
	reply = echoRequestFor(7, true)
	reply[0] = echoReply6
	f.Add(reply, uint64(7), true)
	f.Fuzz(func(t *testing.T, packet []byte, number uint64, isIPv6 bool) {
		if isReplyTo(packet, number, isIPv6) && isReplyTo(packet, number+1, isIPv6) {
			t.Error("one reply answers two requests")
		}
	})
}

func TestEcho(t *testing.T) {
	request := echoRequestFor(0x0123456789abcdef, false)
	if onesSum(request) != 0xffff {
		t.Errorf("checksum of % x", request)
	}
	reply := append([]byte{0x45, 19: 0}, request...)
	if isReplyTo(reply, 0x0123456789abcdef, false) {
		t.Error("a request answers itself")
	}
	reply[20] = echoReply
	if !isReplyTo(reply, 0x0123456789abcdef, false) || isReplyTo(reply, 0x1123456789abcdef, false) {
		t.Error("the number does not tell")
	}
}

// pipe is a server that has said everything already.
type pipe struct{ *strings.Reader }

func (pipe) Write(b []byte) (int, error) { return len(b), nil }

// Whatever a web server sends: no panic, and a reason that fits a log line.
func FuzzHTTPResponse(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	f.Add("HTTP/1.1 302 Found\r\nLocation: \x1b[31m\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello")
	c, err := newHTTP(Target{Spec: Spec{Type: HTTP, Match: "ok"}.WithDefaults(), Real: netip.MustParseAddr("127.0.0.1"), Port: 80}, dialer{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, response string) {
		_, err := c.(*httpChecker).askHTTP1(pipe{strings.NewReader(response)})
		if err == nil {
			return
		}
		if s := err.Error(); len(s) > 400 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("reason %q", s)
		}
	})
}
