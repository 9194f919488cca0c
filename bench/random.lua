-- wrk asks for a name at random, so that no answer is remembered: PATH with @ for one of NAMES numbers of seven digits.
local path, names = os.getenv("RANDOM_PATH"), tonumber(os.getenv("RANDOM_NAMES"))
function init() math.randomseed(os.time()) end
function request()
  return wrk.format("GET", (path:gsub("@", string.format("%07d", math.random(0, names - 1)))))
end
