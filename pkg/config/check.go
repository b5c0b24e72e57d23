package config

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/lvx-lb/lvx/pkg/health"
)

// Limits of checks.
const (
	minInterval = 100 * time.Millisecond
	maxInterval = 24 * time.Hour
	minTimeout  = 10 * time.Millisecond
	maxCount    = 1000
	maxFactor   = 1000 // of the number in a file
)

// noJitter stands for a jitter of 0, which a [health.Spec] takes for the
// default.
const noJitter = 1e-9

// checkTypes are the kinds of checks, in the order that documentation has.
var checkTypes = []health.Type{health.TCP, health.HTTP, health.HTTPS, health.DNS, health.UDP, health.ICMP, health.SMTP, health.File, health.Exec, health.BFD}

// checkKeys says which kinds of checks a key is for; the others are for all.
var checkKeys = map[string][]health.Type{
	"port":        {health.TCP, health.HTTP, health.HTTPS, health.DNS, health.UDP, health.SMTP, health.Exec},
	"via":         {health.TCP, health.HTTP, health.HTTPS, health.DNS, health.UDP, health.ICMP, health.SMTP},
	"source":      {health.TCP, health.HTTP, health.HTTPS, health.DNS, health.UDP, health.ICMP, health.SMTP},
	"address":     {health.TCP, health.HTTP, health.HTTPS, health.DNS, health.UDP, health.ICMP, health.SMTP},
	"method":      {health.HTTP, health.HTTPS},
	"path":        {health.HTTP, health.HTTPS},
	"host":        {health.HTTP, health.HTTPS},
	"status":      {health.HTTP, health.HTTPS},
	"match":       {health.HTTP, health.HTTPS},
	"no_match":    {health.HTTP, health.HTTPS},
	"digest":      {health.HTTP, health.HTTPS},
	"sni":         {health.HTTPS},
	"tls":         {health.HTTPS},
	"ca":          {health.HTTPS},
	"skip_verify": {health.HTTPS},
	"query":       {health.DNS},
	"qtype":       {health.DNS},
	"expect":      {health.DNS, health.TCP, health.UDP},
	"send":        {health.TCP, health.UDP},
	"helo":        {health.SMTP},
	"file":        {health.File},
	"factor":      {health.File},
	"bfd":         {health.BFD},
	"argv":        {health.Exec},
	"env":         {health.Exec},

	"dynamic_weight": {health.Exec},
}

func asksPort(t health.Type) bool {
	return t != health.Exec && slices.Contains(checkKeys["port"], t)
}

// checks reads one check or a list of them; all must pass.
func checks(c *cursor) []health.Spec { return list(check)(c) }

// check reads one check with its defaults filled in.
func check(c *cursor) health.Spec {
	o := c.object()
	s := health.Spec{
		Type:       need(o, "type", "one of "+joined(checkTypes), oneOf("a kind of check", checkTypes...)),
		Via:        get(o, "via", "", oneOf("a way to the real server", health.ViaVIP, health.ViaReal)),
		Port:       get(o, "port", 0, number[uint16](1, 65535)),
		Interval:   get(o, "interval", 0, duration(minInterval, maxInterval, time.Millisecond)),
		Timeout:    get(o, "timeout", 0, duration(minTimeout, time.Hour, time.Millisecond)),
		RetryDelay: get(o, "retry_delay", 0, duration(minInterval, maxInterval, time.Millisecond)),
		Fall:       get(o, "fall", 0, number(1, maxCount)),
		Rise:       get(o, "rise", 0, number(1, maxCount)),
		Jitter:     get(o, "jitter", 0, jitter),
		Source:     get(o, "source", netip.Addr{}, address),
		Address:    get(o, "address", netip.Addr{}, address),
	}
	web(o, &s)
	question(o, &s)
	local(o, &s)
	if o.done() {
		compareCheck(o, s)
	}
	return s.WithDefaults()
}

// web reads what is about http and https.
func web(o *object, s *health.Spec) {
	s.Method = get(o, "method", "", oneOf("a method", "GET", "HEAD", "OPTIONS", "POST"))
	s.Path = get(o, "path", "", requestPath)
	s.Host = get(o, "host", "", webHost)
	s.SNI = get(o, "sni", "", word)
	s.Status = get(o, "status", "", status)
	s.Match = get(o, "match", "", pattern)
	s.NoMatch = get(o, "no_match", "", pattern)
	s.Digest = get(o, "digest", "", digest)
	tlsKeys(o, s)
	s.CA = get(o, "ca", "", path)
	s.SkipVerify = get(o, "skip_verify", false, boolean)
}

// tlsKeys reads what narrows the TLS that a check offers.
func tlsKeys(o *object, s *health.Spec) {
	type keys struct{ min, ciphers string }
	k := get(o, "tls", keys{}, func(c *cursor) keys {
		t := c.object()
		k := keys{
			min:     get(t, "min", "", oneOf("a version of TLS, in quotes", health.TLSVersions...)),
			ciphers: strings.Join(get(t, "ciphers", nil, list(oneOf("a cipher suite", health.CipherSuites()...))), "\n"),
		}
		t.done()
		return k
	})
	s.TLSMin, s.TLSCiphers = k.min, k.ciphers
}

// digest reads an MD5 as genhash prints it.
func digest(c *cursor) string {
	s := filled(c, "32 hexadecimal digits, as genhash prints them")
	if _, err := hex.DecodeString(s); err != nil || len(s) != 2*md5.Size {
		c.errorf("%s is not an MD5 (want 32 hexadecimal digits, as genhash prints them)", quoted(s))
		return ""
	}
	return strings.ToLower(s)
}

// local reads what is about files, programs and BFD sessions of this host, and mail.
func local(o *object, s *health.Spec) {
	s.Helo = get(o, "helo", "", greeting)
	s.File = get(o, "file", "", path)
	s.Factor = get(o, "factor", 0, number(-maxFactor, maxFactor))
	s.Session = get(o, "bfd", "", name)
	s.Argv = get(o, "argv", "", arguments)
	s.Env = get(o, "env", "", environment)
	s.DynamicWeight = get(o, "dynamic_weight", false, boolean)
}

// question reads what is sent to dns, tcp and udp servers.
func question(o *object, s *health.Spec) {
	s.Query = get(o, "query", "", domain)
	s.QType = get(o, "qtype", "", oneOf("a type of record", "A", "AAAA", "NS", "SOA", "MX", "TXT"))
	s.Expect = get(o, "expect", "", text)
	s.Send = get(o, "send", "", text)
}

// compareCheck looks at what the keys of a check say about each other.
func compareCheck(o *object, s health.Spec) {
	for _, key := range o.names {
		if types, ok := checkKeys[key]; ok && !slices.Contains(types, s.Type) {
			o.at(key).onKey().errorf("%s in a check of type %s (want it with %s)", key, s.Type, joined(types))
		}
	}
	if s.Session != "" {
		o.at("bfd").usesBFD(s.Session)
	}
	switch {
	case s.Type == health.Exec && s.Argv == "":
		o.errorf("no argv (want the program and its arguments: [/usr/local/bin/check, web])")
	case s.Type == health.File && s.File == "":
		o.errorf("no file (want the path of a file that holds a number)")
	case s.Type == health.BFD && s.Session == "":
		o.errorf("no bfd (want the name of a session of bfd)")
	case s.Address.IsValid() && s.Via == health.ViaVIP:
		o.at("address").errorf("%s with via: vip (want via: real: the VIP is asked for at the real server's own address)", s.Address)
	case s.Via == health.ViaVIP && !health.ThroughVIP(s):
		o.at("via").errorf("vip in a udp check without send and expect (want one of them: silence does not prove who holds the VIP)")
	case s.SkipVerify && s.CA != "":
		o.at("skip_verify").errorf("true beside ca (want one of the two)")
	}
}

func joined(types []health.Type) string {
	var words []string
	for _, t := range types {
		words = append(words, string(t))
	}
	return strings.Join(words, ", ")
}

func jitter(c *cursor) float64 {
	return max(share(0, 0.5)(c), noJitter)
}

func requestPath(c *cursor) string {
	s := filled(c, "a path such as /health")
	if s != "" && (s[0] != '/' || strings.Contains(s, " ")) {
		c.errorf("%s is not the path of a page (want one that begins with / and has no blanks)", quoted(s))
		return ""
	}
	if _, err := url.Parse("http://localhost" + s); err != nil {
		c.errorf("%s is not the path of a page (want %%25 for a percent sign that begins no escape)", quoted(s))
		return ""
	}
	return s
}

// webHost reads what a web server is asked for by: a name or an address, with a port
// or without.
func webHost(c *cursor) string {
	s := word(c)
	if _, err := url.Parse("http://" + s + "/"); err != nil {
		c.errorf("%s is not the name of a web server (want www.example.com, www.example.com:8080 or [2001:db8::1]:8080, for example)", quoted(s))
		return ""
	}
	return s
}

// greeting reads the name that a mail server is told, in ASCII (RFC 5321).
func greeting(c *cursor) string {
	s := word(c)
	if strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII }) {
		c.errorf("%s is not a name for a mail server (want ASCII alone)", quoted(s))
		return ""
	}
	return s
}

// status reads "200-299,301".
func status(c *cursor) string {
	s := filled(c, "codes such as 200-299,301")
	if s == "" {
		return ""
	}
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			high = low
		}
		first, errLow := strconv.Atoi(low)
		last, errHigh := strconv.Atoi(high)
		if errLow != nil || errHigh != nil || first < 100 || last > 599 || first > last {
			c.errorf("%s is not a list of HTTP codes (want 200-299,301, for example)", quoted(s))
			return ""
		}
	}
	return s
}

// pattern reads a regular expression.
func pattern(c *cursor) string {
	s := text(c)
	if _, err := regexp.Compile(s); err != nil {
		c.errorf("%s is not a regular expression: %s (want RE2 syntax)", quoted(s), printable(reason(err)))
		return ""
	}
	return s
}

// reason takes the expression off the error about it.
func reason(err error) string {
	if i := strings.LastIndex(err.Error(), ": `"); i > 0 {
		return strings.TrimPrefix(err.Error()[:i], "error parsing regexp: ")
	}
	return strings.TrimPrefix(err.Error(), "error parsing regexp: ")
}

// domain reads a name to ask a DNS server for (RFC 1035 section 2.3.4).
func domain(c *cursor) string {
	s := filled(c, "a domain name; . is the root")
	bad := len(s) > 253 || strings.Contains(s, " ") || strings.Contains(s, "..")
	for label := range strings.SplitSeq(s, ".") {
		bad = bad || len(label) > 63
	}
	if bad || s != "." && strings.HasPrefix(s, ".") {
		c.errorf("%s is not a domain name (want labels of up to 63 characters, 253 in all)", quoted(s))
		return ""
	}
	return s
}

// arguments reads an argument vector, one per line of the result.
func arguments(c *cursor) string {
	if c.node.Kind == 0 || c.node.ShortTag() != "!!seq" {
		c.errorf("%s (want a list: the program and each of its arguments)", found(c.node))
		return ""
	}
	argv := list(line)(c)
	if len(argv) > 0 && argv[0] != "" && argv[0][0] != '/' {
		c.entry(c.node.Content[0], 0).errorf("%s is not an absolute path (want one that begins with /)", quoted(argv[0]))
	}
	return strings.Join(argv, "\n")
}

var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// environment reads a map of variables, one NAME=value per line of the
// result, in the order of the names.
func environment(c *cursor) string {
	o := c.object()
	values := map[string]string{}
	for _, key := range o.names {
		at := o.values[key]
		if !variable.MatchString(key) {
			at.onKey().errorf("not the name of a variable (want letters, digits and underscores)")
		}
		values[key] = line(at)
	}
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		lines = append(lines, fmt.Sprintf("%s=%s", key, values[key]))
	}
	return strings.Join(lines, "\n")
}
