package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/daemon"
	"github.com/lvx-lb/lvx/pkg/lb"
)

func newExplainCmd() *cobra.Command {
	var p lb.Packet
	var q question
	var asJSON bool
	var path string
	cmd := &cobra.Command{
		Use:   "explain PROTO SRC:PORT DST:PORT",
		Short: "tell what would happen to a packet, and why",
		Long: `Tells what the packet path would do with a packet, and why: the packet goes
through the packet path itself, built so that it stores nothing. No packet is
sent and nothing changes, not even the turn of round robin.

Of a known connection it also says why its real was chosen, as far as that can
be known afterwards. For icmp and icmp6, SRC and DST are addresses; an error names the
connection that it is about with --quotes, as its client sends it.

With -c a file is asked that is not in force: as if every real server were up, this
host were master, and no connection known. No daemon is needed for that.`,
		Example: `  lvx explain tcp 198.51.100.7:40000 172.25.0.100:80
  lvx explain tcp 198.51.100.7:40000 172.25.0.100:80 --flags A --size 1500
  lvx explain udp 198.51.100.7:5353 172.25.0.100:53
  lvx explain tcp '[2001:db8:1::7]:40000' '[2001:db8::100]:80'
  lvx explain icmp 192.0.2.1 172.25.0.100 --type 3 --code 4 \
      --quotes "tcp 198.51.100.7:40000 172.25.0.100:80"
  lvx explain -c new.yaml tcp 198.51.100.7:40000 172.25.0.100:80`,
		Args: func(cmd *cobra.Command, args []string) (err error) {
			q.hasType = cmd.Flags().Changed("type")
			p, err = parsePacket(args, q)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&q.flags, "flags", "", "TCP `flags` as letters of SAFRPU (default S)")
	flags.IntVar(&q.size, "size", 0, "`bytes` of the packet from its IP header on (default: as few as it needs)")
	flags.Uint8Var(&q.icmpType, "type", 0, "`type` of an ICMP message (default: echo request)")
	flags.Uint8Var(&q.icmpCode, "code", 0, "`code` of an ICMP message")
	flags.StringVar(&q.quotes, "quotes", "", "the `connection` that an ICMP error is about: PROTO SRC:PORT DST:PORT")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	flags.StringVarP(&path, "config", "c", "", "ask this configuration `file`, which is not in force, lvx.yaml or keepalived.conf")
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, _ []string) (err error) {
		var e lb.Explanation
		if path != "" {
			e, err = explainFile(cmd, path, p)
		} else {
			e, err = c.Explain(cmd.Context(), p)
		}
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(cmd.OutOrStdout(), e)
		}
		return printExplanation(cmd.OutOrStdout(), e)
	})
	return cmd
}

// explainFile asks a file that is not in force.
func explainFile(cmd *cobra.Command, path string, p lb.Packet) (lb.Explanation, error) {
	if err := mustBeRoot("explain -c", os.Geteuid()); err != nil {
		return lb.Explanation{}, err
	}
	cfg, err := newReader().Load(path)
	if err != nil {
		return lb.Explanation{}, err
	}
	return daemon.ExplainConfig(cmd.Context(), cfg, p)
}

// Types of ICMP and ICMPv6 messages.
const (
	echoRequest  = 8
	echoRequest6 = 128
)

// question is what flags say of a packet.
type question struct {
	flags    string
	size     int
	hasType  bool // else it is an echo request
	icmpType uint8
	icmpCode uint8
	quotes   string
}

func parsePacket(args []string, q question) (p lb.Packet, err error) {
	if len(args) != 3 {
		return p, fmt.Errorf("%d arguments (expected PROTO SRC:PORT DST:PORT)", len(args))
	}
	switch strings.ToLower(args[0]) {
	case "tcp":
		p.Proto = lb.TCP
	case "udp":
		p.Proto = lb.UDP
	case "icmp", "icmp6":
		return parseICMP(args, q)
	default:
		return p, fmt.Errorf("protocol %q: unknown (tcp, udp, icmp or icmp6)", args[0])
	}
	if p.Src, err = netip.ParseAddrPort(args[1]); err != nil {
		return p, fmt.Errorf("source %q: not ADDR:PORT", args[1])
	}
	if p.Dst, err = netip.ParseAddrPort(args[2]); err != nil {
		return p, fmt.Errorf("destination %q: not ADDR:PORT", args[2])
	}
	if p.Src.Addr().Is4() != p.Dst.Addr().Is4() {
		return p, fmt.Errorf("source %s, destination %s: not of one family (expected both IPv4 or both IPv6)", p.Src, p.Dst)
	}
	p.Flags = strings.ToUpper(q.flags)
	if p.Proto == lb.UDP && q.flags != "" || strings.Trim(p.Flags, "SAFRPU") != "" {
		return p, fmt.Errorf("flags %q: not TCP flags (letters of SAFRPU)", q.flags)
	}
	if q.quotes != "" {
		return p, errors.New("quotes: only ICMP errors quote")
	}
	p.Size = q.size
	return p, checkSize(q.size)
}

func checkSize(size int) error {
	if size < 0 || size > 65535 {
		return fmt.Errorf("size %d: not 0 to 65535", size)
	}
	return nil
}

// parseICMP reads a message between two addresses.
func parseICMP(args []string, q question) (lb.Packet, error) {
	p := lb.Packet{Proto: lb.ICMP, Size: q.size, ICMPType: echoRequest, ICMPCode: q.icmpCode}
	if strings.EqualFold(args[0], "icmp6") {
		p.Proto, p.ICMPType = lb.ICMPv6, echoRequest6
	}
	if q.hasType {
		p.ICMPType = q.icmpType
	}
	src, err := netip.ParseAddr(args[1])
	if err != nil {
		return p, fmt.Errorf("source %q: not an address", args[1])
	}
	dst, err := netip.ParseAddr(args[2])
	if err != nil {
		return p, fmt.Errorf("destination %q: not an address", args[2])
	}
	if src.Is6() != (p.Proto == lb.ICMPv6) || dst.Is6() != src.Is6() {
		return p, fmt.Errorf("%s from %s to %s: another family (icmp is IPv4's, icmp6 is IPv6's)", p.Proto, src, dst)
	}
	p.Src, p.Dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
	if q.quotes != "" {
		quoted, err := parsePacket(strings.Fields(q.quotes), question{})
		if err != nil {
			return p, fmt.Errorf("quotes: %w", err)
		}
		p.Quotes = &quoted
	}
	return p, checkSize(q.size)
}

func printExplanation(w io.Writer, e lb.Explanation) error {
	var b strings.Builder
	for _, step := range e.Steps {
		fmt.Fprintln(&b, step)
	}
	b.WriteString("verdict: " + e.Verdict)
	if e.Service != "" {
		b.WriteString(", service " + e.Service)
	}
	if e.Real != "" {
		b.WriteString(", real " + e.Real)
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

// writeJSONLine writes v on a line of its own.
func writeJSONLine(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
