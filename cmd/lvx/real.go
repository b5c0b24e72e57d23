package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/lvx-lb/lvx/pkg/realserver"
	"github.com/spf13/cobra"
)

// realFlags are the flags of every verb of "lvx real".
type realFlags struct {
	vips      []string
	options   realserver.Options
	effective func() int // the user that runs it
}

// newRealCmd makes the command that prepares a real server. The verbs check
// what they were given in Args, so that an error from there is one of usage.
func newRealCmd() *cobra.Command {
	f := &realFlags{effective: os.Geteuid}
	cmd := &cobra.Command{
		Use:   "real",
		Short: "on a real server: the VIP on lo, ARP for it suppressed",
		Long: `Makes this host a real server for direct routing: the VIP on lo with /32, and
arp_ignore=1, arp_announce=2 on all, lo and the interface that faces the
segment, so that it takes packets for the VIP and stays silent about it.

With --tunnel it takes them out of IPIP packets as well (forward: ipip): the
kernel's device up with the VIP, rp_filter=2 there, and an MSS that leaves room
for the outer header, by a rule of nf_tables. --tunnel=gre and --tunnel=gue are
for forward: gre and gue. Where the real's address in the director's file is one
of IPv6, so is the outer header: --tunnel=ipip6, gre6 or gue6. The VIP may be of
either family.

  tunnel        device       packets
  ipip, gue     tunl0        IPv4 in IPv4
                sit0         IPv6 in IPv4
  ipip6, gue6   lvx-ip6tnl   both in IPv6; made, and removed by down
  gre           gre0         both in GRE
  gre6          ip6gre0      both in GRE over IPv6
`,
		Example: `  lvx real up --vip 172.25.0.100
  lvx real up --vip 172.25.0.100 --tunnel
  lvx real up --vip 172.25.0.100 --tunnel gue
  lvx real up --vip 2001:db8::100 --tunnel ipip6 --interface eth0
  lvx real up --vip 172.25.0.100,172.25.0.101 --interface eth1
  lvx real status
  lvx real down --vip 172.25.0.101
  lvx real down`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	flags := cmd.PersistentFlags()
	flags.StringSliceVar(&f.vips, "vip", nil, "virtual `address`; again, or with commas, for several")
	flags.StringVar(&f.options.Interface, "interface", "", "`interface` that faces the segment (default: that of the route to the VIP)")
	flags.StringVar((*string)(&f.options.Tunnel), "tunnel", "", "packets come in a tunnel of this `kind`: ipip, which is the default of the bare flag, gre, gue, or gue:PORT; with a 6 (ipip6, gue6:PORT) in one over IPv6")
	flags.Lookup("tunnel").NoOptDefVal = string(realserver.IPIP)
	flags.StringVar(&f.options.StateFile, "state", realserver.DefaultStateFile, "`file` that remembers what was there before")
	cmd.AddCommand(f.up(), f.down(), f.status())
	return cmd
}

func (f *realFlags) up() *cobra.Command {
	return &cobra.Command{
		Use:     "up --vip VIP...",
		Short:   "suppress ARP for the VIPs and put them on lo",
		Example: "  lvx real up --vip 172.25.0.100\n  lvx real up --vip 172.25.0.100 --tunnel",
		Args: func(_ *cobra.Command, args []string) error {
			if err := f.parse(args); err != nil {
				return err
			}
			if len(f.options.VIPs) == 0 {
				return errors.New("no VIP given (for example: lvx real up --vip 172.25.0.100)")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return f.change(cmd, realserver.Up) },
	}
}

func (f *realFlags) down() *cobra.Command {
	return &cobra.Command{
		Use:   "down [--vip VIP...]",
		Short: "undo up: for some VIPs, or for all",
		Long: `Takes the VIPs off lo, and off the tunnel's device, that "lvx real up" had put
there; one that was there before stays. With the last one the settings get back the values that they had before,
and a tunnel's device that was down is down again, one that was made is removed.`,
		Example: "  lvx real down --vip 172.25.0.100\n  lvx real down",
		Args:    func(_ *cobra.Command, args []string) error { return f.parse(args) },
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.change(cmd, realserver.Down) },
	}
}

func (f *realFlags) status() *cobra.Command {
	return &cobra.Command{
		Use:   "status [--vip VIP...]",
		Short: "show how things stand; exit status 0 if the host is ready",
		Long: `Shows where the VIPs are and how the interface that faces their segment
answers ARP: each setting as the kernel goes by it, the larger of the
interface's own value and that of "all". What works counts as ready, whoever
set it: the VIP on lo or on a dummy interface, arp_ignore 1 or 2,
arp_announce 2. A VIP with a network (/24 on lo) is not: it makes the whole
segment this host itself. An IPv6 VIP on lo needs no setting: it is ready unless
another interface has it, or answers for it by proxy_ndp.

Of a VIP behind a tunnel (--tunnel, or as remembered from "lvx real up") it also
shows whether a device that takes the tunnel's packets is up, for IPv4 its rp_filter
(the larger of its own and that of "all"; 1 drops what comes out of the tunnel, and
so does 2 where the device has no address), and the longest segment that this host
offers clients.
The rule that lowers it is readable for root alone.`,
		Example: "  lvx real status\n  lvx real status --vip 172.25.0.100\n  lvx real status --vip 172.25.0.100 --tunnel",
		Args:    func(_ *cobra.Command, args []string) error { return f.parse(args) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := realserver.Inspect(f.options)
			if err != nil {
				return err
			}
			return printReal(cmd.OutOrStdout(), st)
		},
	}
}

// parse reads the VIPs: those of --vip, and those that follow a space.
func (f *realFlags) parse(args []string) error {
	for _, text := range slices.Concat(f.vips, args) {
		if word := realserver.Tunnel(text); f.options.Tunnel == realserver.IPIP && word.IsTunnel() {
			f.options.Tunnel = word // --tunnel gue, in two words
			continue
		}
		vip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimSuffix(text, "/32"), "/128"))
		if err != nil {
			return fmt.Errorf("VIP %q: not an address (want one like 172.25.0.100)", text)
		}
		if vip = vip.Unmap(); !slices.Contains(f.options.VIPs, vip) {
			f.options.VIPs = append(f.options.VIPs, vip)
		}
	}
	return nil
}

// change runs Up or Down and prints what it did, also if it did not get to
// the end.
func (f *realFlags) change(cmd *cobra.Command, do func(realserver.Options) ([]string, error)) error {
	if f.effective() != 0 {
		return fmt.Errorf("%s: addresses and ARP settings are root's (try: sudo %s)", cmd.CommandPath(), cmd.CommandPath())
	}
	report, err := do(f.options)
	for _, line := range report {
		fmt.Fprintln(cmd.OutOrStdout(), line)
	}
	return err
}

// printReal prints a status; an error says that the host is not ready.
func printReal(w io.Writer, st realserver.Status) error {
	if len(st.VIPs) == 0 {
		return errors.New("no VIP is up (for example: lvx real up --vip 172.25.0.100)")
	}
	var vips []string
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0) // errors come with Flush
	fmt.Fprintln(t, "VIP\tON\tPUT THERE BY\tFACES\tTROUBLE")
	for _, v := range st.VIPs {
		by := "-"
		if v.On != "" {
			by = "others"
		}
		if v.Ours {
			by = "lvx"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", v.Addr, orDash(v.On), by, orDash(v.Interface), orDash(strings.Join(v.Faults, "; ")))
		vips = append(vips, v.Addr.String())
	}
	if len(st.Settings) > 0 {
		fmt.Fprintln(t) // a line without tabs ends the table
		fmt.Fprintln(t, "SETTING\tIS\tWANTED")
	}
	for _, s := range st.Settings {
		wanted := s.Want
		if s.UnreadTable != "" {
			wanted += " (" + s.UnreadTable + " is not readable: run as root)"
		} else if !s.Faulty && wanted != strconv.Itoa(s.Value) {
			wanted += " (works as well)"
		}
		fmt.Fprintf(t, "%s\t%d\t%s\n", s.Name, s.Value, wanted)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if !st.IsReady() {
		cure := "lvx real up --vip " + strings.Join(vips, ",")
		if i := slices.IndexFunc(st.VIPs, func(v realserver.VIP) bool { return v.Tunnel != "" }); i >= 0 {
			cure += " --tunnel"
			if t := st.VIPs[i].Tunnel; t != realserver.IPIP {
				cure += " " + string(t)
			}
		}
		return fmt.Errorf("not ready to serve %s (%s)", strings.Join(vips, ", "), cure)
	}
	fmt.Fprintf(w, "\nready to serve %s\n", strings.Join(vips, ", "))
	return nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
