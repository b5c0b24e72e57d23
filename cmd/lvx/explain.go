package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/lb"
)

func newExplainCmd() *cobra.Command {
	var p lb.Packet
	var flags string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain PROTO SRC:PORT DST:PORT",
		Short: "tell what would happen to a packet, and why",
		Long: `Tells what the packet path would do with a packet, and why. No packet is sent
and nothing changes, not even the turn of round robin.`,
		Example: `  lvx explain tcp 198.51.100.7:40000 172.25.0.100:80
  lvx explain tcp 198.51.100.7:40000 172.25.0.100:80 --flags A
  lvx explain udp 198.51.100.7:5353 172.25.0.100:53`,
		Args: func(_ *cobra.Command, args []string) (err error) {
			p, err = parsePacket(args, flags)
			return err
		},
	}
	cmd.Flags().StringVar(&flags, "flags", "", "TCP `flags` as letters of SAFRPU (default S)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, _ []string) error {
		e, err := c.Explain(cmd.Context(), p)
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

func parsePacket(args []string, flags string) (p lb.Packet, err error) {
	if len(args) != 3 {
		return p, fmt.Errorf("%d arguments (expected PROTO SRC:PORT DST:PORT)", len(args))
	}
	switch strings.ToLower(args[0]) {
	case "tcp":
		p.Proto = lb.TCP
	case "udp":
		p.Proto = lb.UDP
	default:
		return p, fmt.Errorf("protocol %q: unknown (tcp or udp)", args[0])
	}
	if p.Src, err = netip.ParseAddrPort(args[1]); err != nil {
		return p, fmt.Errorf("source %q: not ADDR:PORT", args[1])
	}
	if p.Dst, err = netip.ParseAddrPort(args[2]); err != nil {
		return p, fmt.Errorf("destination %q: not ADDR:PORT", args[2])
	}
	p.Flags = strings.ToUpper(flags)
	if p.Proto == lb.UDP && flags != "" || strings.Trim(p.Flags, "SAFRPU") != "" {
		return p, fmt.Errorf("flags %q: not TCP flags (letters of SAFRPU)", flags)
	}
	return p, nil
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

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
