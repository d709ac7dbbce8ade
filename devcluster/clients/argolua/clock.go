package main

import (
	"strings"
	"time"

	lua "github.com/yuin/gopher-lua"
)

// clock is what Argo CD leaves of the os library: date and time, in the zone of Argo CD's process.
type clock struct {
	now time.Time
}

func (c clock) functions() map[string]lua.LGFunction {
	return map[string]lua.LGFunction{"date": c.date, "time": c.time}
}

func (c clock) time(state *lua.LState) int {
	moment := c.now
	if state.GetTop() > 0 {
		fields := state.CheckTable(1)
		field := func(name string, otherwise int) int {
			if number, ok := fields.RawGetString(name).(lua.LNumber); ok {
				return int(number)
			}
			return otherwise
		}
		year, month, day := field("year", -1), time.Month(field("month", -1)), field("day", -1)
		hour, minute, second := field("hour", 12), field("min", 0), field("sec", 0)
		moment = time.Date(year, month, day, hour, minute, second, 0, c.now.Location())
	}
	state.Push(lua.LNumber(moment.Unix()))
	return 1
}

// date knows the numbers of a date only, in a text or in a table; Argo CD's knows words as well.
func (c clock) date(state *lua.LState) int {
	pattern := state.CheckString(1)
	shown := c.now
	if strings.HasPrefix(pattern, "!") {
		pattern = strings.TrimLeft(pattern, "!")
		shown = shown.UTC()
	}
	if state.GetTop() > 1 {
		// A quirk of Argo CD's: a time that is given is shown in the local zone, `!` or not.
		shown = time.Unix(state.CheckInt64(2), 0).In(c.now.Location())
	}
	if strings.HasPrefix(pattern, "*t") {
		fields := state.NewTable()
		for name, number := range map[string]int{
			"year": shown.Year(), "month": int(shown.Month()), "day": shown.Day(),
			"hour": shown.Hour(), "min": shown.Minute(), "sec": shown.Second(),
		} {
			fields.RawSetString(name, lua.LNumber(number))
		}
		state.Push(fields)
		return 1
	}
	text := strings.NewReplacer(
		"%Y", shown.Format("2006"), "%m", shown.Format("01"), "%d", shown.Format("02"),
		"%H", shown.Format("15"), "%M", shown.Format("04"), "%S", shown.Format("05"),
	).Replace(pattern)
	if strings.Contains(text, "%") {
		state.ArgError(1, "not a directive that is known here: "+pattern)
	}
	state.Push(lua.LString(text))
	return 1
}
