package health

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// qtypes are the record types that can be asked for.
var qtypes = map[string]dnsmessage.Type{
	"A":    dnsmessage.TypeA,
	"AAAA": dnsmessage.TypeAAAA,
	"NS":   dnsmessage.TypeNS,
	"SOA":  dnsmessage.TypeSOA,
	"MX":   dnsmessage.TypeMX,
	"TXT":  dnsmessage.TypeTXT,
}

// rcodes are the words of RFC 1035 section 4.1.1 that dig uses.
var rcodes = map[dnsmessage.RCode]string{
	dnsmessage.RCodeFormatError:    "FORMERR",
	dnsmessage.RCodeServerFailure:  "SERVFAIL",
	dnsmessage.RCodeNameError:      "NXDOMAIN",
	dnsmessage.RCodeNotImplemented: "NOTIMP",
	dnsmessage.RCodeRefused:        "REFUSED",
}

// dnsChecker asks for one name over UDP. Any answer without an error passes,
// also an empty one, unless a text is expected in it (keepalived's
// DNS_CHECK).
type dnsChecker struct {
	dialer
	to       netip.AddrPort
	name     string // "dns A www.example."
	question dnsmessage.Question
	query    []byte // with an identifier of 0
	expect   string
}

func newDNS(t Target, d dialer) (Checker, error) {
	s := t.Spec
	typ, ok := qtypes[strings.ToUpper(s.QType)]
	if !ok {
		return nil, fmt.Errorf("dns check: query type %q (known: A AAAA NS SOA MX TXT)", s.QType)
	}
	name := s.Query
	if !strings.HasSuffix(name, ".") {
		name += "."
	}
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, fmt.Errorf("dns check: query %q: %w", s.Query, err)
	}
	c := &dnsChecker{
		dialer:   d,
		to:       netip.AddrPortFrom(t.Real, t.Port),
		name:     fmt.Sprintf("dns %s %s", strings.ToUpper(s.QType), guard.Text(name)),
		question: dnsmessage.Question{Name: n, Type: typ, Class: dnsmessage.ClassINET},
		expect:   s.Expect,
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{RecursionDesired: true},
		Questions: []dnsmessage.Question{c.question},
	}
	if c.query, err = m.Pack(); err != nil {
		return nil, fmt.Errorf("dns check: query %q: %w", s.Query, err)
	}
	return c, nil
}

func (c *dnsChecker) Check(ctx context.Context) error {
	s, err := c.dial(ctx, unix.SOCK_DGRAM, 0, c.to)
	if err != nil {
		return stageFailure(c.name, err)
	}
	defer s.Close()
	query := append([]byte(nil), c.query...)
	_, _ = rand.Read(query[:2]) // never fails (crypto/rand)
	if _, err := s.Write(query); err != nil {
		return stageFailure(c.name, err)
	}
	var reply [maxDatagram]byte
	for {
		n, err := s.readDatagram(reply[:])
		if err != nil {
			return stageFailure(c.name, err)
		}
		if n >= 2 && binary.BigEndian.Uint16(reply[:]) == binary.BigEndian.Uint16(query) {
			return c.judgeReply(reply[:n])
		}
	}
}

// judgeReply looks at a reply to our query.
func (c *dnsChecker) judgeReply(reply []byte) error {
	var p dnsmessage.Parser
	h, err := p.Start(reply)
	if err != nil || !h.Response {
		return fmt.Errorf("%s: not a DNS response", c.name)
	}
	if q, err := p.Question(); err == nil && q.Type != c.question.Type {
		return fmt.Errorf("%s: answer to another question", c.name)
	}
	if h.RCode != dnsmessage.RCodeSuccess {
		word, ok := rcodes[h.RCode]
		if !ok {
			word = fmt.Sprintf("error code %d", uint16(h.RCode))
		}
		return fmt.Errorf("%s: %s", c.name, word)
	}
	if c.expect == "" {
		return nil
	}
	if err := p.SkipAllQuestions(); err != nil {
		return fmt.Errorf("%s: not a DNS response", c.name)
	}
	for {
		a, err := p.Answer()
		if err != nil {
			return fmt.Errorf("%s: no answer contains %q", c.name, guard.Text(c.expect))
		}
		if strings.Contains(answerText(a.Body), c.expect) {
			return nil
		}
	}
}

// answerText writes a record's data as a zone file does, near enough.
func answerText(b dnsmessage.ResourceBody) string {
	switch b := b.(type) {
	case *dnsmessage.AResource:
		return netip.AddrFrom4(b.A).String()
	case *dnsmessage.AAAAResource:
		return netip.AddrFrom16(b.AAAA).String()
	case *dnsmessage.NSResource:
		return b.NS.String()
	case *dnsmessage.CNAMEResource:
		return b.CNAME.String()
	case *dnsmessage.MXResource:
		return fmt.Sprintf("%d %s", b.Pref, b.MX)
	case *dnsmessage.SOAResource:
		return fmt.Sprintf("%s %s %d", b.NS, b.MBox, b.Serial)
	case *dnsmessage.TXTResource:
		return strings.Join(b.TXT, "")
	}
	return ""
}
