-- Sends POST /token with one sign-in token after the other and reports as one line of JSON.
local requests, next_request = {}, 0

function init(args)
   for token in io.lines(args[1]) do
      local headers = { ["Authorization"] = "Bearer " .. token, ["Content-Length"] = "0" }
      requests[#requests + 1] = wrk.format("POST", "/token", headers)
   end
   next_request = tonumber(args[2] or "0")
end

function request()
   next_request = next_request % #requests + 1
   return requests[next_request]
end

function done(summary, latency, _)
   local errors = summary.errors
   io.write(string.format(
      'RESULT {"requests":%d,"duration_us":%d,"p99_us":%d,"not_ok":%d,"failed":%d}\n',
      summary.requests, summary.duration, latency:percentile(99),
      errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
