package keepalived

import (
	"crypto/md5" //nolint:gosec // the digest of genhash
	"encoding/hex"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lvx-lb/lvx/pkg/health"
)

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
			words, ok := splitCommand(st.raw, true)
			if !ok || len(words) != 2 || words[1] == "" {
				st.mark(Harmless, "keepalived cannot read the pattern: it wants one word, or quotes")
				break
			}
			if _, err := regexp.Compile(words[1]); err != nil {
				st.mark(Lost, "not a regular expression that RE2 understands")
				break
			}
			st.mark(Mapped, "")
			key := "match"
			if len(url.children("regex_no_match")) > 0 {
				key = "no_match"
			}
			c.put(key, "%s", scalar(words[1]))
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

// asksWeb reports whether a statement has a check in its block that names a web
// server.
func asksWeb(s *Statement) bool {
	return slices.ContainsFunc(s.Block, func(c *Statement) bool {
		return c.keyword != nil && (c.Word == "HTTP_GET" || c.Word == "SSL_GET" || asksWeb(c))
	})
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
