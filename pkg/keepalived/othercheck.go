package keepalived

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/health"
)

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
			if text, ok := plainBytes(st.Args); ok {
				c.put("send", "%s", scalar(text))
				if len(c.from.children("require_reply")) == 0 {
					st.mark(Changed, "an answer is needed; for keepalived silence is a pass")
				}
				st.mark(Mapped, "")
			} else {
				st.mark(Lost, "bytes above 7f cannot be written in YAML")
			}
		case "require_reply":
			text, ok := plainBytes(st.Args)
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
// its own in UTF-8. As for keepalived's read_hex_str() two digits are a byte, and
// one before a blank.
func plainBytes(words []string) (string, bool) {
	var out strings.Builder
	for _, digits := range strings.Fields(strings.Join(words, " ")) {
		for digits != "" {
			n := min(2, len(digits))
			b, err := strconv.ParseUint(digits[:n], 16, 8)
			if err != nil || b > 0x7f {
				return "", false
			}
			out.WriteByte(byte(b))
			digits = digits[n:]
		}
	}
	return out.String(), out.Len() > 0
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
			block := m.files[st.arg(0)]
			if st.misses(block, "track_file", st.arg(0)) {
				continue
			}
			file = block
			st.mark(Mapped, "")
		case "weight":
			weight = st
		}
	}
	path := ""
	if weight != nil && weight.arg(0) == "0" {
		weight.mark(Mapped, "the file's")
		weight = nil
	}
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

// defaultFileWeight is what a tracked file's number is multiplied by where nothing
// is said of it.
const defaultFileWeight = 1

// fileWeight reads what a tracked file's number is multiplied by.
func fileWeight(s *Statement) int {
	if s == nil {
		return defaultFileWeight
	}
	n, err := strconv.Atoi(s.arg(0))
	isReversed := s.arg(1) == "reverse"
	switch {
	case err != nil || n < -254 || n > 254:
		s.mark(Harmless, "keepalived ignores %s here", quote(s.arg(0)))
		return defaultFileWeight
	case isReversed && n == 0:
		s.overrule(Lost, "lvx has the real server down unless the number is 0, not while it is 0")
	case isReversed:
		n = -n
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
