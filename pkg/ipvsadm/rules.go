package ipvsadm

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// maxLine bounds a line of a rule file.
const maxLine = 64 << 10

// Rules reads a rule file line by line as ipvsadm -R does: words between
// blanks; "ipvsadm" as a word does not count; lines without words are passed
// over. A "#" begins a word like any other. yield returns false to end it.
func Rules(r io.Reader, yield func(args []string) bool) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		words := strings.FieldsFunc(lines.Text(), func(r rune) bool { return r == ' ' || r == '\t' || r == '\r' })
		args := words[:0]
		for _, w := range words {
			if w != "ipvsadm" {
				args = append(args, w)
			}
		}
		if len(args) > 0 && !yield(args) {
			return nil
		}
	}
	return lines.Err()
}

// Key is the service's identity for ipvsadm.
func (l ListedService) Key() Key {
	if l.Mark != 0 {
		return Key{Mark: l.Mark, IPv6: l.IPv6}
	}
	return Key{Proto: l.Proto, Addr: l.Addr, Port: l.Port}
}

// PrintRules writes what ipvsadm -S writes: a line for each service and real
// that ipvsadm -R reads back. It sorts l for that.
func PrintRules(w io.Writer, l Listing, v View) error {
	l.sort()
	b := bufio.NewWriter(w)
	p := listPrinter{Writer: b, View: v}
	for _, s := range l.Services {
		p.rules(s)
	}
	return b.Flush()
}

func (p listPrinter) rules(s ListedService) {
	name := p.ruleName(s)
	fmt.Fprintf(p, "-A %s -s %s", name, s.Scheduler)
	if s.Persistence > 0 {
		fmt.Fprintf(p, " -p %d", s.Persistence)
		if s.Mask != "" {
			fmt.Fprintf(p, " -M %s", s.Mask)
		}
	}
	if s.Engine != "" {
		fmt.Fprintf(p, " --pe %s", s.Engine)
	}
	if s.OnePacket {
		fmt.Fprint(p, " -o")
	}
	if len(s.Flags) > 0 {
		fmt.Fprintf(p, " -b %s", strings.Join(s.Flags, ","))
	}
	fmt.Fprint(p, "\n")
	for _, r := range s.Reals {
		fmt.Fprintf(p, "-a %s -r %s %s -w %d", name, p.name(r.Addr, r.Port, s.Proto), ruleForward(r.Forward), r.Weight)
		if r.Forward == "Tunnel" {
			fmt.Fprintf(p, " --tun-type %s", encapOptions(r.Tunnel))
		}
		fmt.Fprint(p, "\n")
	}
}

func (p listPrinter) ruleName(s ListedService) string {
	switch {
	case s.Mark != 0 && s.IPv6:
		return fmt.Sprintf("-f %d -6", int32(s.Mark))
	case s.Mark != 0:
		return fmt.Sprintf("-f %d", int32(s.Mark))
	}
	option := "-t"
	switch protoName(s.Proto) {
	case "UDP":
		option = "-u"
	case "SCTP":
		option = "--sctp-service"
	}
	return option + " " + p.name(s.Addr, s.Port, s.Proto)
}

func ruleForward(name string) string {
	switch name {
	case "Masq":
		return "-m"
	case "Tunnel":
		return "-i"
	}
	return "-g"
}

// encapOptions are what follows --tun-type.
func encapOptions(e lb.Encap) string {
	switch e.Kind {
	case lb.GUE:
		return fmt.Sprintf("%s --tun-port %d --tun-%s", e.Kind, e.Port, e.Checksum)
	case lb.GRE:
		return fmt.Sprintf("%s --tun-%s", e.Kind, e.Checksum)
	}
	return e.Kind.String()
}

// encapInfo is what --tun-info shows: "ipip", "gue:6080:-c", "gre:+c".
func encapInfo(e lb.Encap) string {
	sum := [...]string{lb.NoChecksum: "-c", lb.WithChecksum: "+c", lb.RemoteChecksum: "r+c"}[e.Checksum]
	switch e.Kind {
	case lb.GUE:
		return fmt.Sprintf("%s:%d:%s", e.Kind, e.Port, sum)
	case lb.GRE:
		return e.Kind.String() + ":" + sum
	}
	return e.Kind.String()
}
