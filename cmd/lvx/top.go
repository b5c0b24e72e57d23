package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/guard"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// topOrders are the keys that sort the screen of lvx top.
var topOrders = map[byte]string{'c': "connections", 'p': "packets", 'b': "bytes", 'a': "active", 'n': "name"}

func newTopCmd() *cobra.Command {
	var once bool
	var order string
	names := []string{"connections", "packets", "bytes", "active", "name"}
	cmd := &cobra.Command{
		Use:   "top",
		Short: "one live screen: rates, active connections, tables, roles",
		Long: `Shows services and reals with their rates per second and active connections, how
full the tables are, roles and warnings, anew every two seconds. Keys sort: c
connections, p packets, b bytes, a active, n name; q ends. With --once it prints
one screen and ends, as it does where the output is no terminal.`,
		Example: `  lvx top
  lvx top --once --sort bytes`,
		Args: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(names, order) {
				return fmt.Errorf("sort %q: unknown (%s)", order, strings.Join(names, ", "))
			}
			return noArguments(cmd, args)
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "print one screen and end")
	cmd.Flags().StringVar(&order, "sort", "connections", "`what` to sort by: "+strings.Join(names, ", "))
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, _ []string) error {
		draw := func(ctx context.Context, w io.Writer, order string, color bool) error {
			st, err := c.Status(ctx)
			if err != nil {
				return err
			}
			l, err := c.List(ctx, director.Want{})
			if err != nil {
				return err
			}
			return printTop(w, st, l.Rates, order, color)
		}
		out := cmd.OutOrStdout()
		keys, restore := readKeys(os.Stdin)
		defer restore()
		if once || keys == nil || !isTerminal(out) {
			return draw(cmd.Context(), out, order, colors(out))
		}
		return runTop(cmd.Context(), out, keys, order, draw)
	})
	return cmd
}

// runTop draws the screen anew every two seconds, and after every key, until q
// is pressed.
func runTop(ctx context.Context, out io.Writer, keys <-chan byte, order string, draw func(context.Context, io.Writer, string, bool) error) error {
	for {
		var b strings.Builder
		if err := draw(ctx, &b, order, colors(out)); err != nil {
			return err
		}
		if _, err := io.WriteString(out, "\x1b[H\x1b[2J"+b.String()); err != nil {
			return err
		}
		select {
		case <-time.After(lb.RatePeriod):
		case key, ok := <-keys:
			if !ok || key == 'q' {
				return nil
			}
			if o := topOrders[key]; o != "" {
				order = o
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// readKeys makes a terminal give keys as they are pressed; nil if f is none.
// restore gives the terminal its ways back.
func readKeys(f *os.File) (keys <-chan byte, restore func()) {
	before, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, func() {}
	}
	raw := *before
	raw.Lflag &^= unix.ICANON | unix.ECHO
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &raw); err != nil {
		return nil, func() {}
	}
	pressed := make(chan byte)
	go func() {
		defer close(pressed)
		for b := make([]byte, 1); ; {
			if n, err := f.Read(b); n != 1 || err != nil {
				return
			}
			pressed <- b[0]
		}
	}()
	return pressed, func() { _ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, before) } // the terminal may be gone
}

// topRow is a service or one of its reals.
type topRow struct {
	name, state string
	rates       lb.Rates
	active      uint32
	inactive    uint32
	weight      string
	reals       []topRow
}

// compare orders rows, the busiest first.
func (r topRow) compare(o topRow, order string) int {
	by := map[string]func(topRow) uint64{
		"connections": func(r topRow) uint64 { return r.rates.CPS },
		"packets":     func(r topRow) uint64 { return r.rates.InPPS },
		"bytes":       func(r topRow) uint64 { return r.rates.InBPS },
		"active":      func(r topRow) uint64 { return uint64(r.active) },
	}[order]
	if by != nil && by(r) != by(o) {
		return cmp.Compare(by(o), by(r))
	}
	return strings.Compare(r.name, o.name)
}

func topRows(st director.Status, rates []lb.ServiceRates, order string) []topRow {
	of := make(map[string]*lb.ServiceRates, len(rates))
	for i := range rates {
		of[rates[i].Name] = &rates[i]
	}
	var rows []topRow
	for _, s := range st.Services {
		row := topRow{name: s.Name, state: s.State}
		real := map[string]lb.Rates{}
		if r := of[s.Name]; r != nil {
			row.rates = r.Rates
			for _, one := range r.Reals {
				real[director.RealName(netip.AddrPortFrom(one.Addr, one.Port))] = one.Rates
			}
		}
		for _, r := range s.Reals {
			name := director.RealName(netip.AddrPortFrom(r.Addr, r.Port))
			row.active, row.inactive = row.active+r.Active, row.inactive+r.Inactive
			row.reals = append(row.reals, topRow{
				name: name, state: r.State, rates: real[name], active: r.Active, inactive: r.Inactive, weight: strconv.Itoa(int(r.Weight)),
			})
		}
		slices.SortStableFunc(row.reals, func(a, b topRow) int { return a.compare(b, order) })
		rows = append(rows, row)
	}
	slices.SortStableFunc(rows, func(a, b topRow) int { return a.compare(b, order) })
	return rows
}

func printTop(w io.Writer, st director.Status, rates []lb.ServiceRates, order string, color bool) error {
	s := &screen{now: st.Now, color: color}
	line := fmt.Sprintf("lvx %s, %s %s, up %s, by %s", st.Version, st.Backend, st.Mode, s.ago(st.Started), order)
	for _, v := range st.VRRP {
		line += fmt.Sprintf(", %s %s", v.Instance, v.Role)
	}
	for _, t := range st.Tables {
		if t.Capacity > 0 {
			line += fmt.Sprintf(", %s %d%%", t.Name, 100*t.Used/t.Capacity)
		}
	}
	s.line("", "%s", guard.Text(line))
	for _, warning := range st.Warnings {
		s.line("drained", "%s", warningWords(warning))
	}
	s.b.WriteByte('\n')
	s.table(func(row func(class string, cells ...string)) {
		row("", "SERVICE", "STATE", "WEIGHT", "CONN/S", "PKT/S", "BIT/S", "ACTIVE", "INACTIVE")
		for _, service := range topRows(st, rates, order) {
			service.print(row, "")
			for _, real := range service.reals {
				real.print(row, "  ")
			}
		}
	})
	_, err := io.WriteString(w, s.b.String())
	return err
}

func (r topRow) print(row func(class string, cells ...string), indent string) {
	n := func(v uint64) string { return strconv.FormatUint(v, 10) }
	row(r.state, indent+r.name, r.state, r.weight, n(r.rates.CPS), n(r.rates.InPPS), n(8*r.rates.InBPS), n(uint64(r.active)), n(uint64(r.inactive)))
}
