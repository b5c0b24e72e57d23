package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/guard"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

func newStatusCmd() *cobra.Command {
	var asJSON, check bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "one screen: roles, VIPs, services, reals and why",
		Long: `Prints one screen: roles, VIPs and who holds them, services, reals with health and
reason, warnings with cures, how full the tables are, and what became of packets.

With --check the exit status is 1 if something is down: a service (also one on
its sorry server), a real, a virtual router in FAULT, or a state that the kernel
does not hold. It is 0 otherwise, and 2 if the daemon does not answer.

Without a daemon it says whether the packet path still serves, and for how long, lists
what the pinned maps hold, and ends with 1.`,
		Example: `  lvx status
  lvx status --check > /dev/null || echo "look at lvx status"
  lvx status --json | jq '.services[] | select(.state != "up")'`,
		Args: noArguments,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&check, "check", false, "exit with 1 if something is down")
	path := configFlag(cmd)
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, _ []string) error {
		st, err := c.Status(cmd.Context())
		switch {
		case err != nil && check:
			return statusError{exitUsage, err}
		case err != nil && asJSON:
			return err
		case err != nil:
			h, err := lookWithoutDaemon(err, *path, false, 0)
			if err != nil {
				return err
			}
			return errors.Join(printOrphan(cmd, h), statusError{exitFailed, nil})
		case asJSON:
			err = writeJSON(cmd.OutOrStdout(), st)
		default:
			err = printStatus(cmd.OutOrStdout(), st, colors(cmd.OutOrStdout()))
		}
		if err == nil && check && isSomethingDown(st) {
			return statusError{exitFailed, nil}
		}
		return err
	})
	return cmd
}

// isSomethingDown is the verdict of --check.
func isSomethingDown(st director.Status) bool {
	isDown := func(s director.ServiceStatus) bool {
		return s.State != "up" || slices.ContainsFunc(s.Reals, func(r director.RealStatus) bool { return r.State == "down" || r.State == "unresolved" })
	}
	return st.Fault != "" || slices.ContainsFunc(st.Services, isDown) ||
		slices.ContainsFunc(st.VRRP, func(v director.VRRPStatus) bool { return v.Role == "FAULT" })
}

// colors reports whether w is a terminal whose user wants colours
// (https://no-color.org).
func colors(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// screen lays out a status. Colours are put on whole lines only, after the
// columns were aligned.
type screen struct {
	b     strings.Builder
	now   time.Time
	color bool
}

func printStatus(w io.Writer, st director.Status, color bool) error {
	s := &screen{now: st.Now, color: color}
	s.head(st)
	s.vrrp(st.VRRP)
	s.vips(st.VIPs)
	s.sync(st.Sync)
	s.bgp(st.BGP)
	s.bfd(st.BFD)
	for _, svc := range st.Services {
		s.service(svc)
	}
	s.path(st)
	_, err := io.WriteString(w, s.b.String())
	return err
}

func (s *screen) head(st director.Status) {
	s.line("", "lvx %s, %s %s, up %s", st.Version, st.Backend, st.Mode, s.ago(st.Started))
	if st.Detail != "" {
		s.line("", "%s", guard.Text(st.Detail))
	}
	if st.Reload.Error == "" {
		s.line("", "configuration of %s", st.Reload.At.Local().Format(time.DateTime))
	} else {
		s.line("down", "reload of %s refused", st.Reload.At.Local().Format(time.DateTime))
	}
	for _, w := range st.Warnings {
		s.line("drained", "%s", warningWords(w))
	}
}

// warningWords is a warning in a line: what it is about, what is wrong, what to
// do.
func warningWords(w warnings.Warning) string {
	text := "warning: "
	if w.Note {
		text = "note: "
	}
	text += guard.Text(w.Subject) + ": " + guard.Text(w.Text)
	if w.Cure != "" {
		text += " (" + guard.Text(w.Cure) + ")"
	}
	return text
}

func (s *screen) vrrp(all []director.VRRPStatus) {
	if len(all) == 0 {
		return
	}
	s.b.WriteByte('\n')
	s.table(func(row func(class string, cells ...string)) {
		for _, v := range all {
			var peers []string
			for _, p := range v.Peers {
				peers = append(peers, fmt.Sprintf("%s (%d, %s ago)", p.Addr, p.Priority, s.now.Sub(p.Seen).Truncate(100*time.Millisecond)))
			}
			row(v.Role, "vrrp "+v.Instance, v.Role, s.ago(v.Since), "priority "+strconv.Itoa(int(v.Priority)),
				v.Interface, orDash(strings.Join(peers, ", ")), guard.Text(v.Why))
			if v.Warning != "" {
				row("down", "", guard.Text(v.Warning))
			}
		}
	})
}

func (s *screen) vips(all []director.VIPStatus) {
	if len(all) == 0 {
		return
	}
	s.b.WriteByte('\n')
	s.table(func(row func(class string, cells ...string)) {
		for _, v := range all {
			by := "held"
			if v.Withheld {
				by = "withheld: another host has it"
			} else if !v.Held {
				by = "not held"
			}
			if v.Instance != "" {
				by += " by " + v.Instance
			}
			if v.Silent {
				by += ", on lo as a real server's"
			}
			row("", "VIP "+v.Addr.String(), by)
		}
	})
}

func (s *screen) service(svc director.ServiceStatus) {
	s.b.WriteByte('\n')
	title := fmt.Sprintf("%s  %s  %s  %s", svc.Name, svc.State, svc.Scheduler, strings.Join(svc.Listeners, " "))
	if svc.Mark != 0 {
		title += fmt.Sprintf("  FWM %d", svc.Mark)
	}
	if svc.Backend != "" {
		title += "  " + svc.Backend
	}
	if svc.Runtime != "" {
		title += "  [" + guard.Text(svc.Runtime) + "]"
	}
	if svc.BackendReason != "" {
		title += ": " + guard.Text(svc.BackendReason)
	}
	if svc.Reason != "" {
		title += "  (" + guard.Text(svc.Reason) + ")"
	}
	s.line(svc.State, "%s", title)
	if svc.Rows > 0 {
		s.line("", "  stateless: %s", rowWords(svc.Rows, svc.UnsettledRows))
	}
	s.table(func(row func(class string, cells ...string)) {
		for _, r := range svc.Reals {
			row(r.State, "  "+director.RealName(netip.AddrPortFrom(r.Addr, r.Port)), r.State, weightWords(r), s.ago(r.Since), orDash(r.MAC), realWords(r))
		}
		if svc.Sorry != "" {
			row("", "  "+svc.Sorry, "sorry server")
		}
	})
}

// rowWords says which connections of a stateless service are kept.
func rowWords(all, unsettled int) string {
	if unsettled == 0 {
		return fmt.Sprintf("all %d rows are settled, no connections are kept", all)
	}
	return fmt.Sprintf("%d of %d rows are not settled, their connections are kept", unsettled, all)
}

// path prints how full the tables are, and the verdicts that are not zero.
func (s *screen) path(st director.Status) {
	if len(st.Tables) > 0 {
		s.b.WriteByte('\n')
		s.table(func(row func(class string, cells ...string)) {
			for _, t := range st.Tables {
				class := ""
				if t.Capacity > 0 && t.Used*10 > t.Capacity*9 {
					class = "down"
				}
				words := fmt.Sprintf("%d of %d", t.Used, t.Capacity)
				for _, kind := range slices.Sorted(maps.Keys(t.Evicted)) {
					words += fmt.Sprintf(", %d %s given up", t.Evicted[kind], strings.ReplaceAll(kind, "_", "-"))
				}
				row(class, "table "+t.Name, words)
			}
		})
	}
	s.losses(st.Losses)
	if len(st.Verdicts) > 0 {
		s.b.WriteByte('\n')
		s.table(func(row func(class string, cells ...string)) {
			for _, v := range st.Verdicts {
				row("", "packets "+v.Name, strconv.FormatUint(v.Count, 10), v.Meaning)
			}
		})
	}
}

// losses prints what drivers have lost, as far as they have.
func (s *screen) losses(all []director.Loss) {
	all = slices.DeleteFunc(slices.Clone(all), func(l director.Loss) bool { return l.Frames == 0 })
	if len(all) == 0 {
		return
	}
	s.b.WriteByte('\n')
	s.table(func(row func(class string, cells ...string)) {
		for _, l := range all {
			row("", "lost "+l.Interface, guard.Text(l.Counter), strconv.FormatUint(l.Frames, 10), lossWords(l))
		}
	})
}

// lossWords says what a count of losses counts.
func lossWords(l director.Loss) string {
	switch {
	case l.IsDrivers:
		return "counted by its driver (ethtool -S)"
	case l.Counter == "xdp_tx":
		return "frames that the driver did not send back by this interface"
	case l.Counter == "xdp_redirect":
		return "frames from here that did not leave by another interface"
	}
	return "frames that the driver did not know what to do with"
}

func weightWords(r director.RealStatus) string {
	w := "weight " + strconv.Itoa(int(r.Weight))
	if r.Weight != r.Configured {
		w += " (configured " + strconv.Itoa(int(r.Configured)) + ")"
	}
	return w
}

func realWords(r director.RealStatus) string {
	var words []string
	if r.Flapping {
		words = append(words, "flapping")
	}
	if r.Checks == 0 {
		words = append(words, "no check")
	}
	if n := r.Active + r.Inactive; n > 0 && (r.Weight == 0 || r.State == "drained") {
		words = append(words, fmt.Sprintf("%d connections left", n))
	}
	if r.Reason != "" {
		words = append(words, guard.Text(r.Reason))
	}
	return strings.Join(words, ", ")
}

// table aligns the cells of the rows that fill makes.
func (s *screen) table(fill func(row func(class string, cells ...string))) {
	var classes []string
	var aligned strings.Builder
	t := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	fill(func(class string, cells ...string) {
		classes = append(classes, class)
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	})
	t.Flush()
	for i, l := range strings.Split(strings.TrimSuffix(aligned.String(), "\n"), "\n") {
		if i < len(classes) {
			s.line(classes[i], "%s", strings.TrimRight(l, " "))
		}
	}
}

func (s *screen) line(class, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if code := map[string]string{
		"up": "32", "MASTER": "32", "down": "31", "FAULT": "31", "sorry": "33", "drained": "33", "quiesced": "33", "unresolved": "31",
	}[class]; code != "" && s.color {
		text = "\x1b[" + code + "m" + text + "\x1b[0m"
	}
	s.b.WriteString(text + "\n")
}

// ago is how long ago t was: "3h12m5s"; "-" if it never was.
func (s *screen) ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := s.now.Sub(t)
	switch {
	case d >= 48*time.Hour:
		return strconv.Itoa(int(d.Hours()/24)) + " days"
	case d >= time.Second:
		return d.Truncate(time.Second).String()
	}
	return d.Truncate(time.Millisecond).String()
}
