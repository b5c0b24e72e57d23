package keepalived

import (
	"crypto/md5" //nolint:gosec // the digest of genhash
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/lvx-lb/lvx/pkg/health"
)

// Bounds of what lvx takes for a check (pkg/config).
const (
	minDelay   = 100 * time.Millisecond
	maxDelay   = 24 * time.Hour
	minTimeout = 10 * time.Millisecond
	maxTimeout = time.Hour
	maxFall    = 1000
)

// keepalived's defaults of checks.
const (
	defaultDelayLoop  = 60 * time.Second
	defaultConnect    = 5 * time.Second
	defaultRetryDelay = time.Second
	defaultWebDelay   = 3 * time.Second
)

// pair is a key of the output with its value.
type pair struct{ key, value string }

// check is a check of a real server as the output has it.
type check struct {
	from *Statement
	item *item
	kind health.Type
	keys []pair
}

func (c *check) put(key, format string, args ...any) {
	c.keys = append(c.keys, pair{key, fmt.Sprintf(format, args...)})
}

// text is the check as a map in one line.
func (c *check) text() string {
	parts := []string{"type: " + string(c.kind)}
	for _, k := range c.keys {
		parts = append(parts, k.key+": "+k.value)
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// asked is what a checker is asked of.
type asked struct {
	real    netip.Addr
	port    uint16 // 0: unknown
	forward string
	host    string // virtualhost of the real server or of the virtual server
	timing  []timing
}

// target is what a checker's block says about whom it asks.
type target struct {
	addr   netip.Addr
	port   uint16
	source netip.Addr
}

// take reads a statement about the connection of a checker.
func (t *target) take(c *Statement, real netip.Addr) bool {
	switch c.Word {
	case "connect_ip":
		addr, ok := parseAddress(c.arg(0))
		switch {
		case !ok:
			c.mark(Harmless, "keepalived ignores the address %s", quote(c.arg(0)))
		case addr == real:
			c.mark(Mapped, "the real server's own")
		default:
			t.addr = addr
			c.mark(Mapped, "")
		}
	case "connect_port":
		if n := count(c, 1, 65535); n != nil {
			t.port = uint16(*n)
		}
	case "bindto":
		addr, ok := parseAddress(c.arg(0))
		if !ok || addr.Is4() != real.Is4() {
			c.mark(Harmless, "keepalived ignores the address %s", quote(c.arg(0)))
			break
		}
		c.mark(Mapped, "")
		t.source = addr
	case "bind_port":
		c.mark(Changed, "the kernel chooses the port")
	case "bind_if":
		c.mark(Changed, "the routing table chooses the interface")
	case "fwmark":
		c.mark(Lost, "lvx sets no mark on checks: route them by `bindto`")
	default:
		return false
	}
	return true
}

// readChecker makes checks of a checker's block: none where lvx has none.
func (m *mapper) readChecker(s *Statement, a asked) []*check {
	c := &check{from: s}
	to := target{port: a.port}
	own := timing{}
	for _, st := range s.Block {
		if st.keyword != nil && !own.take(st) {
			to.take(st, a.real)
		}
	}
	a.timing = append([]timing{own}, a.timing...)
	s.mark(Mapped, "")
	var all []*check
	switch s.Word {
	case "TCP_CHECK":
		c.kind = health.TCP
		all = m.finish(c, a, to, 1, defaultRetryDelay)
	case "PING_CHECK":
		c.kind = health.ICMP
		to.port = 0
		all = m.finish(c, a, to, 1, defaultRetryDelay)
	case "HTTP_GET", "SSL_GET":
		all = m.webChecks(s, a, to)
	case "DNS_CHECK":
		readDNS(c)
		all = m.finish(c, a, to, 3, or(defaultDelayLoop, a.delays()...))
	case "UDP_CHECK":
		readUDP(c)
		all = m.finish(c, a, to, 1, defaultRetryDelay)
	case "SMTP_CHECK":
		all = m.mailCheck(c, a, to)
	case "MISC_CHECK":
		all = m.scriptCheck(c, a)
	case "FILE_CHECK":
		all = m.fileCheck(c, a)
	default:
		s.overrule(Lost, "lvx has no such check: the real server is up as far as this is concerned")
		s.markBlock(Lost, "of a check that lvx does not have")
	}
	return all
}

// delays are the intervals of the checker and what is around it.
func (a asked) delays() []*time.Duration {
	var all []*time.Duration
	for _, t := range a.timing {
		all = append(all, t.interval)
	}
	return all
}

// finish adds what every check has.
func (m *mapper) finish(c *check, a asked, to target, retry uint64, retryDelay time.Duration) []*check {
	var delays, timeouts []*time.Duration
	var retries []*uint64
	for _, t := range a.timing {
		delays = append(delays, t.retryDelay)
		timeouts = append(timeouts, t.timeout)
		retries = append(retries, t.retry)
	}
	interval, wasOff := clamp(or(defaultDelayLoop, a.delays()...), minDelay, maxDelay)
	delay, delayOff := clamp(or(retryDelay, delays...), minDelay, maxDelay)
	timeout, timeoutOff := clamp(or(defaultConnect, timeouts...), minTimeout, maxTimeout)
	fall := or(retry, retries...) + 1
	if wasOff || delayOff || timeoutOff || fall > maxFall {
		c.from.overrule(Changed, "times and counts brought into lvx's bounds (intervals from %s, timeouts from %s, at most %d failures)",
			minDelay, minTimeout, maxFall)
	}
	if c.kind != health.Exec && c.kind != health.File {
		if to.port != 0 {
			c.put("port", "%d", to.port)
		}
		if a.forward != "dr" || !m.o.ViaVIP || to.addr.IsValid() {
			c.put("via", "real")
		}
		if to.addr.IsValid() {
			c.put("address", "%s", scalar(to.addr.String()))
		}
		if to.source.IsValid() {
			c.put("source", "%s", scalar(to.source.String()))
		}
	}
	c.put("interval", "%s", duration(interval))
	c.put("timeout", "%s", duration(timeout))
	if delay != interval {
		c.put("retry_delay", "%s", duration(delay))
	}
	c.put("fall", "%d", min(fall, maxFall))
	c.put("rise", "1")
	c.item = &item{from: c.from}
	return []*check{c}
}

// webChecks makes a check of every url of HTTP_GET and SSL_GET.
func (m *mapper) webChecks(s *Statement, a asked, to target) []*check {
	host, sni, asksName := a.host, "", false
	for _, st := range s.Block {
		switch st.Word {
		case "virtualhost":
			host = hostName(st)
		case "enable_sni":
			asksName = or(false, truth(st))
		case "sni_name":
			sni = hostName(st)
		}
	}
	var all []*check
	for _, url := range s.children("url") {
		c := &check{from: url, kind: health.HTTP}
		if s.Word == "SSL_GET" {
			c.kind = health.HTTPS
			c.put("skip_verify", "true")
		}
		own := readURL(c, url)
		if own == "" {
			own = host
		}
		if own != "" {
			c.put("host", "%s", scalar(own))
		}
		switch {
		case c.kind != health.HTTPS:
		case sni != "":
			c.put("sni", "%s", scalar(sni))
		case asksName && own != "":
			c.put("sni", "%s", scalar(own))
		}
		url.mark(Mapped, "")
		all = append(all, m.finish(c, a, to, 1, defaultWebDelay)...)
	}
	if len(all) == 0 {
		s.overrule(Harmless, "keepalived ignores a check without url")
	}
	return all
}

// readURL reads the block of a url; the result is its virtualhost.
func readURL(c *check, url *Statement) (host string) {
	var codes []string
	for _, st := range url.Block {
		switch st.Word {
		case "path":
			st.mark(Mapped, "")
			p := st.arg(0)
			if !strings.HasPrefix(p, "/") {
				p = "/" + p
			}
			c.put("path", "%s", scalar(p))
		case "virtualhost":
			host = hostName(st)
		case "status_code":
			codes = readStatus(st)
		case "digest":
			if b, err := hex.DecodeString(st.arg(0)); err != nil || len(b) != md5.Size {
				st.mark(Harmless, "keepalived ignores a digest that is not one of MD5")
				break
			}
			st.mark(Mapped, "")
			c.put("digest", "%s", scalar(strings.ToLower(st.arg(0))))
		case "regex":
			if _, err := regexp.Compile(st.arg(0)); err != nil || st.arg(0) == "" {
				st.mark(Lost, "not a regular expression that RE2 understands")
				break
			}
			st.mark(Mapped, "")
			key := "match"
			if len(url.children("regex_no_match")) > 0 {
				key = "no_match"
			}
			c.put(key, "%s", scalar(st.arg(0)))
		case "regex_no_match":
			st.mark(Mapped, "")
		case "regex_options", "regex_min_offset", "regex_max_offset":
			st.mark(Lost, "lvx looks at the first 64 KiB of the body, by RE2's rules")
		}
	}
	if len(codes) > 0 {
		c.put("status", "%s", scalar(strings.Join(codes, ",")))
	}
	return host
}

// hostName reads the name of a web server.
func hostName(st *Statement) string {
	name := st.arg(0)
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' || r == utf8.RuneError }) {
		st.mark(Lost, "not a name that a Host header can have")
		return ""
	}
	st.mark(Mapped, "")
	return name
}

// readStatus reads codes and ranges of codes.
func readStatus(st *Statement) []string {
	var codes []string
	for _, word := range st.Args {
		for part := range strings.SplitSeq(word, ",") {
			low, high, isRange := strings.Cut(part, "-")
			if !isRange {
				high = low
			}
			first, errLow := strconv.Atoi(low)
			last, errHigh := strconv.Atoi(high)
			if errLow != nil || errHigh != nil || first < 100 || last > 599 || first > last {
				continue
			}
			codes = append(codes, part)
		}
	}
	if len(codes) == 0 {
		st.mark(Harmless, "keepalived ignores the code %s", quote(st.arg(0)))
	}
	st.mark(Mapped, "")
	return codes
}

// readDNS reads the block of a DNS_CHECK.
func readDNS(c *check) {
	c.kind = health.DNS
	types := []string{"A", "AAAA", "NS", "SOA", "MX", "TXT"}
	for _, st := range c.from.Block {
		switch st.Word {
		case "name":
			st.mark(Mapped, "")
			c.put("query", "%s", scalar(st.arg(0)))
		case "type":
			kind := strings.ToUpper(st.arg(0))
			switch {
			case slices.Contains(types, kind):
				st.mark(Mapped, "")
				c.put("qtype", "%s", kind)
			case kind == "CNAME":
				st.mark(Changed, "lvx asks for A, which follows the CNAME")
				c.put("qtype", "A")
			default:
				st.mark(Changed, "lvx does not ask for %s: SOA", quote(kind))
			}
		}
	}
}

// readUDP reads the block of a UDP_CHECK.
func readUDP(c *check) {
	c.kind = health.UDP
	for _, st := range c.from.Block {
		switch st.Word {
		case "payload":
			if text, ok := plainBytes(st.arg(0)); ok {
				c.put("send", "%s", scalar(text))
				if len(c.from.children("require_reply")) == 0 {
					st.mark(Changed, "an answer is needed; for keepalived silence is a pass")
				}
				st.mark(Mapped, "")
			} else {
				st.mark(Lost, "bytes above 7f cannot be written in YAML")
			}
		case "require_reply":
			text, ok := plainBytes(st.arg(0))
			switch {
			case st.arg(0) == "" && len(c.from.children("payload")) > 0:
				st.mark(Mapped, "")
			case st.arg(0) == "":
				st.mark(Changed, "silence is a pass where nothing is sent")
			case ok:
				st.mark(Mapped, "")
				c.put("expect", "%s", scalar(text))
			default:
				st.mark(Lost, "wildcards and bytes above 7f cannot be compared")
			}
		case "min_reply_length", "max_reply_length":
			st.mark(Lost, "lvx does not look at the length of an answer")
		}
	}
}

// plainBytes decodes hexadecimal digits where every byte is a character of
// its own in UTF-8.
func plainBytes(s string) (string, bool) {
	b, err := hex.DecodeString(s)
	return string(b), err == nil && len(b) > 0 && !slices.ContainsFunc(b, func(c byte) bool { return c > 0x7f })
}

// mailCheck makes checks of an SMTP_CHECK: one for every host.
func (m *mapper) mailCheck(c *check, a asked, to target) []*check {
	if to.port == 0 {
		to.port = 25
	}
	helo := ""
	for _, st := range c.from.Block {
		if st.Word == "helo_name" {
			st.mark(Mapped, "")
			helo = st.arg(0)
		}
	}
	greet := func(c *check) {
		c.kind = health.SMTP
		if helo != "" {
			c.put("helo", "%s", scalar(helo))
		}
	}
	hosts := c.from.children("host")
	if len(hosts) == 0 {
		greet(c)
		return m.finish(c, a, to, 1, defaultRetryDelay)
	}
	var all []*check
	for _, host := range hosts {
		own, where := timing{}, to
		for _, st := range host.Block {
			if st.keyword != nil && !own.take(st) {
				where.take(st, a.real)
			}
		}
		host.mark(Mapped, "")
		inner := &check{from: host}
		greet(inner)
		b := a
		b.timing = append([]timing{own}, a.timing...)
		all = append(all, m.finish(inner, b, where, 1, defaultRetryDelay)...)
	}
	return all
}

// fileCheck makes a check of a FILE_CHECK: of the file that its track_file
// names, with its weight or the file's.
func (m *mapper) fileCheck(c *check, a asked) []*check {
	c.kind = health.File
	var file *Statement
	var weight *Statement
	for _, st := range c.from.Block {
		switch st.Word {
		case "track_file":
			if file = m.files[st.arg(0)]; file == nil {
				st.mark(Harmless, "keepalived knows no track_file %s", quote(st.arg(0)))
				continue
			}
			st.mark(Mapped, "")
		case "weight":
			weight = st
		}
	}
	path := ""
	if file != nil {
		file.mark(Mapped, "")
		path, weight = trackedFile(file, weight)
	}
	if path == "" {
		c.from.overrule(Harmless, "keepalived ignores a check without a file")
		return nil
	}
	c.put("file", "%s", scalar(path))
	if n := fileWeight(weight); n != 0 {
		c.put("factor", "%d", n)
	}
	a.timing = []timing{{interval: ptr(time.Second)}}
	return m.finish(c, a, target{}, 0, time.Second)
}

// trackedFile is the path of a track_file, and the statement of its weight
// where the one who uses it has none.
func trackedFile(file, weight *Statement) (path string, _ *Statement) {
	for _, st := range file.Block {
		switch st.Word {
		case "file":
			st.mark(Mapped, "")
			path = st.arg(0)
		case "weight":
			st.mark(Mapped, "")
			if weight == nil {
				weight = st
			}
		case "init_file":
			if st.arg(0) == "" || st.arg(0) == "0" {
				st.mark(Harmless, "a file that is not there counts as 0")
			}
			st.mark(Changed, "lvx makes no file: one that is not there counts as 0")
		}
	}
	return path, weight
}

// fileWeight reads what a tracked file's number is multiplied by.
func fileWeight(s *Statement) int {
	if s == nil {
		return 0
	}
	n, err := strconv.Atoi(s.arg(0))
	switch {
	case err != nil || n < -254 || n > 254:
		s.mark(Harmless, "keepalived ignores %s here", quote(s.arg(0)))
		return 0
	case s.arg(1) == "reverse":
		s.overrule(Lost, "lvx does not count backwards")
	}
	s.mark(Mapped, "")
	return n
}

// scriptCheck makes a check of a MISC_CHECK.
func (m *mapper) scriptCheck(c *check, a asked) []*check {
	c.kind = health.Exec
	var argv []string
	var timeout *time.Duration
	for _, st := range c.from.Block {
		switch st.Word {
		case "misc_path":
			words, _, ok := command(st)
			if !ok || !isPlain(st, words) {
				st.mark(Harmless, "keepalived cannot read the command")
				break
			}
			st.mark(Mapped, "runs as nobody, without a shell; the program must belong to root")
			argv = words
		case "misc_timeout":
			timeout = seconds(st, time.Microsecond)
		case "misc_dynamic":
			st.mark(Mapped, "")
			c.put("dynamic_weight", "true")
		case "user":
			m.markUser(st)
		}
	}
	if argv == nil {
		c.from.overrule(Harmless, "keepalived ignores a check without misc_path")
		return nil
	}
	c.put("argv", "%s", scalars(argv))
	if timeout == nil {
		timeout = first(append(a.delays(), ptr(defaultDelayLoop))...)
	}
	a.timing = slices.Clone(a.timing)
	a.timing[0].timeout = timeout
	return m.finish(c, a, target{}, 0, defaultRetryDelay)
}

// markUser says what becomes of the user of a check's program.
func (m *mapper) markUser(st *Statement) {
	if st.arg(0) == "nobody" {
		st.mark(Mapped, "")
		return
	}
	st.mark(Changed, "runs as nobody, not as %s", quote(st.arg(0)))
}

func ptr[T any](v T) *T { return &v }
